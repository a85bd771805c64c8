/* The universal test guest: calls any host function with any bytes, keeps a log of its life, and fails in every way
 * that a guest can fail in. tests/guests/__init__.py lists the exports and commands with examples.
 *
 * Macros, written without quotes: GUEST_ID=a.b  GUEST_VERSION=2.0.0  GUEST_PROTOCOL=2  GUEST_MIN_APP=9.0.0
 * GUEST_CAPABILITIES=["custom_commands"]  GUEST_COMMANDS=["echo"]  GUEST_PERMISSIONS={...}
 * GUEST_STATELESS  INIT_TRAP  INIT_SPIN  NO_HANDLE_COMMAND
 */
#include "isoplug.h"

#define QUOTE_(...) #__VA_ARGS__
#define QUOTE(...) QUOTE_(__VA_ARGS__)

#ifndef GUEST_ID
#define GUEST_ID test.probe
#endif
#ifndef GUEST_VERSION
#define GUEST_VERSION 1.0.0
#endif
#ifndef GUEST_CAPABILITIES
#define GUEST_CAPABILITIES ["custom_commands", "file_events", "workspace_events"]
#endif
#ifndef GUEST_COMMANDS
#define GUEST_COMMANDS                                                                                          \
    ["echo", "host", "fail", "garbage", "count", "events", "big", "call", "busy", "spin", "trap", "recurse",    \
     "allocate", "alloc_kernel", "segv", "spin_host", "log_flood", "host_then"]
#endif

/* The id stands behind a mark and has room, so that `renamed` can write another one into the finished module. Read
 * through a volatile pointer, or the compiler would copy the bytes into the code as constants. */
static const struct {
    char mark[16], text[64];
} guest_id = {"isoplug:guestid", QUOTE(GUEST_ID)};

static ip_str own_id(void) {
    const volatile char *text = guest_id.text;
    ip_buffer b = {0};
    for (uint32_t i = 0; i < sizeof guest_id.text && text[i]; i++) ip_add_byte(&b, (uint8_t)text[i]);
    return ip_text(&b);
}

IP_EXPORT(manifest) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "id", own_id());
    ip_put_text_field(&b, "name", ip_s("Probe"));
    ip_put_text_field(&b, "version", ip_s(QUOTE(GUEST_VERSION)));
    ip_put_text_field(&b, "description", ip_s("Test guest"));
    ip_put_raw_field(&b, "capabilities", ip_s(QUOTE(GUEST_CAPABILITIES)));
    ip_put_raw_field(&b, "commands", ip_s(QUOTE(GUEST_COMMANDS)));
#ifdef GUEST_PROTOCOL
    ip_put_raw_field(&b, "protocol_version", ip_s(QUOTE(GUEST_PROTOCOL)));
#endif
#ifdef GUEST_MIN_APP
    ip_put_text_field(&b, "min_app_version", ip_s(QUOTE(GUEST_MIN_APP)));
#endif
#ifdef GUEST_STATELESS /* a lie: it counts, so that tests can tell instances apart */
    ip_put_bool_field(&b, "stateless", true);
#endif
#ifdef GUEST_PERMISSIONS
    ip_put_raw_field(&b, "requested_permissions", ip_s(QUOTE(GUEST_PERMISSIONS)));
#endif
    ip_put_close(&b, '}');
    return ip_output(ip_text(&b));
}

/* ---- failing ---- */

static void spin_forever(void) {
    for (;;) __asm__ volatile(""); /* a loop without effect may be removed: C says that it ends */
}

/* The asm hides both values, or the calls would become a loop, or a formula. No local lives in memory, so it is the
 * runtime's own call stack that overflows, not the 64 KiB that the linker set aside. */
__attribute__((noinline)) static uint32_t recurse_deeper(uint32_t depth) {
    __asm__ volatile("" : "+r"(depth));
    uint32_t below = depth == UINT32_MAX ? 0 : recurse_deeper(depth + 1);
    __asm__ volatile("" : "+r"(below));
    return below + depth;
}

static ip_reply spin(ip_str params) {
    (void)params;
    spin_forever();
    return ip_ok((ip_str){0});
}

static ip_reply trap(ip_str params) {
    (void)params;
    __builtin_trap();
}

static ip_reply recurse(ip_str params) {
    (void)params;
    return ip_ok(ip_decimal(recurse_deeper(0)));
}

static ip_reply allocate(ip_str params) { /* all the memory that the host grants, touched page by page */
    (void)params;
    const uint32_t chunk = 1 << 20, page = 4096;
    uint64_t bytes = 0;
    for (uint8_t *block; (block = ip_try_alloc(chunk)); bytes += chunk)
        for (uint32_t at = 0; at < chunk; at += page) *(volatile uint8_t *)(block + at) = 1;
    ip_reset(); /* the answer needs a little of what was taken; `params` is gone */
    return ip_ok(ip_decimal((int64_t)bytes));
}

static ip_reply alloc_kernel(ip_str params) { /* the same with Extism's memory, which is another one */
    (void)params;
    const uint32_t chunk = 1 << 20, page = 4096;
    uint64_t bytes = 0;
    for (ip_offset block; (block = ip_env_alloc(chunk)); bytes += chunk)
        for (uint32_t at = 0; at < chunk; at += page) ip_env_store_u8(block + at, 1);
    return ip_ok(ip_decimal((int64_t)bytes));
}

/* Length plus block header wraps to 4, so the allocator grants a block of 4 GiB for 4 bytes of memory, and the process
 * that hosts this guest dies of SIGSEGV when it reads the error. Nothing may be allocated afterwards (an ordinary reply
 * would), or that lands in the block's place. */
static int segv(void) {
    ip_env_error_set(ip_env_alloc(UINT64_MAX - 7));
    return 1;
}

static ip_reply spin_host(ip_str params) { /* never ends, but is hardly ever inside the guest */
    (void)params;
    ip_offset request = ip_store(ip_s("{\"token\":\"spin\"}"));
    for (;;) {
        ip_offset answer = host_is_cancelled(request);
        if (answer) ip_env_free(answer);
    }
}

static ip_reply log_flood(ip_str params) { /* host calls that nobody waits for */
    (void)params;
    ip_offset request = ip_store(ip_s("{\"level\":\"info\",\"message\":\"flood\"}"));
    for (;;) {
        ip_offset answer = host_log(request);
        if (answer) ip_env_free(answer);
    }
}

/* ---- life ---- */

static uint8_t log_bytes[65536]; /* JSON objects without the array's brackets */
static uint32_t log_length, log_dropped;

static void record(const char *export_name, ip_str input) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "export", ip_s(export_name));
    ip_put_raw_field(&b, "input", input);
    ip_put_close(&b, '}');
    if (sizeof log_bytes - log_length < b.len + 1) {
        log_dropped++;
        return;
    }
    if (log_length) log_bytes[log_length++] = ',';
    memcpy(log_bytes + log_length, b.ptr, b.len);
    log_length += b.len;
}

static uint8_t config_bytes[16384];
static uint32_t config_length;

static ip_str config(void) { return config_length ? (ip_str){config_bytes, config_length} : ip_s("{}"); }

static void misbehave(const char *config_key) { /* {"init": "trap"} and the like */
    ip_str how = ip_get_text(config(), config_key);
    if (ip_equal(how, ip_s("trap"))) __builtin_trap();
    if (ip_equal(how, ip_s("spin"))) spin_forever();
}

static ip_str normalized(ip_str object) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    for (ip_items items = ip_each(object); ip_next(&items);) {
        if (ip_equal(items.key, ip_s("\"normalized\""))) continue;
        ip_put_raw(&b, items.key);
        ip_add_byte(&b, ':');
        ip_put_raw(&b, items.value);
    }
    ip_put_bool_field(&b, "normalized", true);
    ip_put_close(&b, '}');
    return ip_text(&b);
}

IP_EXPORT(set_config) {
    ip_str input = ip_input();
    record("set_config", input);
    if (ip_get_bool(input, "reject")) return ip_fail(ip_s("this configuration is refused, as it asked to be"));
    bool has_extra = ip_get_bool(input, "normalize");
    if (has_extra) input = normalized(input);
    if (input.len > sizeof config_bytes) return ip_fail(ip_s("the configuration is longer than 16384 bytes"));
    memcpy(config_bytes, input.ptr, input.len);
    config_length = input.len;
    misbehave("set_config");
    if (ip_get_bool(input, "ask")) return ip_output(ip_s("{\"permission_request\":{\"read_files\":\"to read\"}}"));
    if (!has_extra) return ip_output((ip_str){0});
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_raw_field(&b, "config", input);
    ip_put_close(&b, '}');
    return ip_output(ip_text(&b));
}

IP_EXPORT(get_config) { return ip_output(config()); }

IP_EXPORT(init) {
    record("init", ip_input());
#ifdef INIT_TRAP
    __builtin_trap();
#endif
#ifdef INIT_SPIN
    spin_forever();
#endif
    misbehave("init");
    if (ip_equal(ip_get_text(config(), "init"), ip_s("fail"))) return ip_fail(ip_s("init failed, as it was told to"));
    return 0;
}

IP_EXPORT(on_event) {
    ip_str input = ip_input(), path = ip_get_text(ip_get(input, "payload"), "path");
    record("on_event", input);
    if (ip_equal(path, ip_s("trap"))) __builtin_trap();
    if (ip_equal(path, ip_s("spin"))) spin_forever();
    if (ip_equal(path, ip_s("segv"))) return segv();
    if (ip_equal(path, ip_s("segv_after_write"))) {
        ip_str error;
        ip_storage_set(ip_s("on_event"), ip_s("done"), &error);
        return segv();
    }
    if (ip_equal(path, ip_s("fail"))) return ip_fail(ip_s("the event failed, as it was told to"));
    return 0;
}

IP_EXPORT(shutdown) {
    ip_str error;
    record("shutdown", ip_input());
    misbehave("shutdown");
    ip_storage_set(ip_s("shutdown"), ip_s("done"), &error);
    return 0;
}

/* ---- host functions ---- */

typedef struct {
    const char *name;
    ip_host_function *function;
} host_entry;

#define HOST_ENTRY(name) {#name, name},
static const host_entry host_entries[] = {IP_HOST_FUNCTIONS(HOST_ENTRY)};

/* {"function", "input"}, or "input_base64" for bytes that are not text; false when there is no such function. */
static bool call_host(ip_str request, ip_str *answer) {
    ip_str name = ip_get_text(request, "function"), input = ip_get_text(request, "input");
    ip_str encoded = ip_get_text(request, "input_base64");
    if (encoded.len && !ip_from_base64(encoded, &input)) {
        *answer = ip_s("input_base64 is not base64");
        return false;
    }
    for (uint32_t i = 0; i < sizeof host_entries / sizeof *host_entries; i++) {
        if (!ip_equal(name, ip_s(host_entries[i].name))) continue;
        *answer = ip_host(host_entries[i].function, input);
        return true;
    }
    *answer = ip_concat(ip_s("the guest knows no host function "), name);
    return false;
}

IP_EXPORT(host) { /* the raw answer is the output */
    ip_str answer;
    return call_host(ip_input(), &answer) ? ip_output(answer) : ip_fail(answer);
}

/* {"calls": [request, ...], "repeat": n}: the answers of the last round. One export call, so many host calls. */
IP_EXPORT(host_many) {
    ip_str input = ip_input(), calls = ip_get(input, "calls"), answer;
    uintptr_t mark = ip_mark();
    ip_buffer b = {0};
    for (int64_t left = ip_get_int(input, "repeat", 1); left > 0; left--) {
        ip_release(mark);
        b = (ip_buffer){0};
        ip_put_open(&b, '[');
        for (ip_items items = ip_each(calls); ip_next(&items);) {
            if (!call_host(items.value, &answer)) return ip_fail(answer);
            ip_put_text(&b, answer);
        }
        ip_put_close(&b, ']');
    }
    return ip_output(ip_text(&b));
}

/* {"calls": [request, ...], "then": how}: the host calls, and then an end that is `trap`, `spin` or `segv`, or else the
 * answers as data. */
static ip_reply host_then(ip_str params) {
    ip_str answer, then = ip_get_text(params, "then");
    ip_buffer b = {0};
    ip_put_open(&b, '[');
    for (ip_items items = ip_each(ip_get(params, "calls")); ip_next(&items);) {
        if (!call_host(items.value, &answer)) return ip_refuse("bad_params", answer);
        ip_put_text(&b, answer);
    }
    ip_put_close(&b, ']');
    if (ip_equal(then, ip_s("trap"))) __builtin_trap();
    if (ip_equal(then, ip_s("spin"))) spin_forever();
    if (ip_equal(then, ip_s("fail"))) return ip_refuse("failed", ip_s("as it was told to"));
    return ip_ok(ip_text(&b));
}

static ip_reply host(ip_str params) {
    ip_str answer;
    ip_buffer b = {0};
    if (!call_host(params, &answer)) return ip_refuse("bad_params", answer);
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "answer", answer);
    ip_put_text_field(&b, "answer_base64", ip_to_base64(answer));
    ip_put_close(&b, '}');
    return ip_ok(ip_text(&b));
}

static ip_reply call(ip_str params) { /* the host's whole answer, success or not */
    return ip_ok(ip_host(host_plugin_command, params));
}

/* ---- raw exports ---- */

IP_EXPORT(echo) { return ip_output(ip_input()); }

IP_EXPORT(raw_fail) { return ip_fail(ip_input()); } /* input may be bytes that are not UTF-8 */

IP_EXPORT(raw_fail_as_rust) { /* the Rust SDK answers -1 for every error, which is also what a trap looks like */
    ip_fail(ip_input());
    return -1;
}

IP_EXPORT(fail_then_trap) {
    ip_fail(ip_input());
    __builtin_trap();
}

IP_EXPORT(bad_output) { /* a length so long that the last byte lies before the first, inside valid memory */
    ip_offset block = ip_store(ip_s("sixteen bytes...")) + 12;
    ip_env_output_set(block, UINT64_MAX - 7);
    return 0;
}

/* ---- commands ---- */

static ip_reply echo(ip_str params) { return ip_ok(params); }

static ip_reply fail(ip_str params) {
    ip_str code = ip_get_text(params, "error_code");
    uint8_t *copy = ip_alloc(code.len + 1); /* ip_refuse takes a C string */
    memcpy(copy, code.ptr, code.len);
    copy[code.len] = 0;
    return ip_refuse((const char *)copy, ip_get_text(params, "message"));
}

static uint32_t counter;
static ip_reply count(ip_str params) {
    (void)params;
    return ip_ok(ip_decimal(++counter));
}

static ip_reply events(ip_str params) {
    (void)params;
    ip_buffer b = {0};
    ip_put_open(&b, '[');
    ip_add(&b, (ip_str){log_bytes, log_length});
    if (log_dropped) {
        ip_put_open(&b, '{');
        ip_put_int_field(&b, "dropped", log_dropped);
        ip_put_close(&b, '}');
    }
    ip_put_close(&b, ']');
    return ip_ok(ip_text(&b));
}

static ip_reply big(ip_str params) {
    int64_t bytes = ip_get_int(params, "bytes", 0);
    if (bytes < 0 || bytes > INT32_MAX / 4) return ip_refuse("bad_params", ip_s("bytes must be 0 to 536870911"));
    uint8_t *text = ip_alloc((size_t)bytes);
    memset(text, 'x', (size_t)bytes);
    ip_buffer b = {0};
    ip_put_text(&b, (ip_str){text, (uint32_t)bytes});
    return ip_ok(ip_text(&b));
}

static ip_reply busy(ip_str params) { /* a guest cannot sleep; it can look at the clock */
    int64_t end = ip_timestamp() + ip_get_int(params, "milliseconds", 0);
    uintptr_t mark = ip_mark();
    while (ip_timestamp() < end) ip_release(mark);
    return ip_ok((ip_str){0});
}

#ifndef NO_HANDLE_COMMAND
static const ip_command_entry entries[] = {
    {"echo", echo},         {"host", host},       {"fail", fail},           {"count", count}, {"events", events},
    {"big", big},           {"call", call},       {"busy", busy},           {"spin", spin},   {"trap", trap},
    {"recurse", recurse},   {"allocate", allocate}, {"alloc_kernel", alloc_kernel},
    {"spin_host", spin_host}, {"log_flood", log_flood}, {"host_then", host_then},
};

IP_EXPORT(handle_command) {
    ip_str command = ip_get_text(ip_input(), "command");
    if (ip_equal(command, ip_s("garbage"))) return ip_output(ip_s("{]"));
    if (ip_equal(command, ip_s("segv"))) return segv();
    ip_str params = ip_get(ip_input(), "params");
    if (ip_equal(command, ip_s("host_then")) && ip_equal(ip_get_text(params, "then"), ip_s("segv"))) {
        host_then(params);
        return segv();
    }
    return ip_dispatch(entries, sizeof entries / sizeof *entries);
}
#endif
