/* What `isoplug bench` measures with: answers what it was sent, and calls a host function so many times.
 *
 *     echo    any bytes                                the same
 *     ask     "host_read_file 10 {\"path\":\"a\"}"     how many bytes the last answer had; the guest has loaded each
 *
 * With two inputs for the host function, a line each, `ask` takes turns: what is stored again as it is, is not stored.
 *
 * As a command, `echo` answers its params; `call` runs a command of another plugin, {"plugin_id", "command", "params"}.
 */
#include "isoplug.h"

/* The id stands behind a mark and has room, so that the benchmark can make two hundred plugins of one module. Read
 * through a volatile pointer, or the compiler would copy the bytes into the code as constants. */
static const struct {
    char mark[16], text[64];
} guest_id = {"isoplug:guestid", "isoplug.bench"};

IP_EXPORT(manifest) {
    const volatile char *text = guest_id.text;
    ip_buffer id = {0}, b = {0};
    for (uint32_t i = 0; i < sizeof guest_id.text && text[i]; i++) ip_add_byte(&id, (uint8_t)text[i]);
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "id", ip_text(&id));
    ip_put_text_field(&b, "name", ip_s("Bench"));
    ip_put_text_field(&b, "version", ip_s("1.0.0"));
    ip_put_text_field(&b, "description", ip_s("Echoes, and calls host functions."));
    ip_put_raw_field(&b, "capabilities", ip_s("[\"custom_commands\"]"));
    ip_put_raw_field(&b, "commands", ip_s("[\"echo\", \"call\"]"));
    ip_put_close(&b, '}');
    return ip_output(ip_text(&b));
}

IP_EXPORT(echo) { return ip_output(ip_input()); }

static const struct {
    const char *name;
    ip_host_function *function;
} functions[] = {
    {"host_file_exists", host_file_exists},
    {"host_read_file", host_read_file},
    {"host_request_file", host_request_file},
    {"host_storage_set", host_storage_set},
};

IP_EXPORT(ask) {
    ip_str input = ip_input(), answer = {0};
    uint32_t name_end = ip_find(input, ip_s(" "), 0), times_end = ip_find(input, ip_s(" "), name_end + 1);
    if (name_end == IP_NONE || times_end == IP_NONE) return ip_fail(ip_s("FUNCTION TIMES INPUT is what ask takes"));
    ip_str name = ip_slice(input, 0, name_end), request = ip_slice(input, times_end + 1, input.len), other = request;
    uint32_t line_end = ip_find(request, ip_s("\n"), 0);
    if (line_end != IP_NONE) {
        other = ip_slice(request, line_end + 1, request.len);
        request = ip_slice(request, 0, line_end);
    }
    int64_t left = ip_to_int(ip_slice(input, name_end + 1, times_end), 0);
    uintptr_t mark = ip_mark();
    for (uint32_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        if (!ip_equal(name, ip_s(functions[i].name))) continue;
        for (; left > 0; left--) {
            ip_release(mark);
            answer = ip_host(functions[i].function, left % 2 ? request : other);
        }
        return ip_output(ip_decimal(answer.len));
    }
    return ip_fail(ip_s("no such function here"));
}

static ip_reply echo(ip_str params) { return ip_ok(params); }

static ip_reply call(ip_str params) {
    ip_str answer;
    ip_str plugin_id = ip_get_text(params, "plugin_id"), command = ip_get_text(params, "command");
    bool is_done = ip_command(plugin_id, command, ip_get(params, "params"), &answer);
    return is_done ? ip_ok(answer) : ip_refuse("failed", answer);
}

IP_COMMANDS({"echo", echo}, {"call", call})
