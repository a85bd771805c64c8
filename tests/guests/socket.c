/* A guest with a WebSocket. Tells the host of everything that arrives, as an event {"heard", "nth", "text", "base64"}
 * (nth: of this instance), and then does what the text says or its configuration; tests/guests/__init__.py lists both. */
#include "isoplug.h"

IP_MANIFEST({
    "id": "test.socket", "name": "Socket", "version": "1.0.0", "description": "Test guest",
    "capabilities": ["custom_commands", "sync_transport"], "commands": []
})

static uint8_t config_bytes[16384];
static uint32_t config_length;

static ip_str configured(const char *key) { return ip_get((ip_str){config_bytes, config_length}, key); }

static uint32_t told;

static void tell(const char *what, ip_str bytes) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "heard", ip_s(what));
    ip_put_int_field(&b, "nth", ++told);
    ip_put_text_field(&b, "text", bytes);
    ip_put_text_field(&b, "base64", ip_to_base64(bytes));
    ip_put_close(&b, '}');
    ip_emit_event(ip_text(&b));
}

static void add_number(ip_buffer *b, uint32_t number, uint32_t bytes) { /* little-endian */
    for (; bytes--; number >>= 8) ip_add_byte(b, (uint8_t)number);
}

static int answer(uint8_t kind, ip_str payload) { /* an envelope with one action */
    ip_buffer b = {0};
    add_number(&b, 1, 2);
    ip_add_byte(&b, kind);
    add_number(&b, payload.len, 4);
    ip_add(&b, payload);
    return ip_output(ip_text(&b));
}

static int obey(ip_str order) {
    ip_str what = ip_get_text(order, "do"), envelope;
    if (ip_equal(what, ip_s("trap"))) __builtin_trap();
    if (ip_equal(what, ip_s("request"))) tell("answer", ip_host(host_ws_request, ip_get(order, "request")));
    if (ip_equal(what, ip_s("spin")) || ip_get_bool(order, "then_spin"))
        for (;;) __asm__ volatile("");
    if (ip_equal(what, ip_s("fail"))) return ip_fail(ip_s("failed, as it was told to"));
    if (ip_equal(what, ip_s("answer")) && ip_from_base64(ip_get_text(order, "envelope"), &envelope))
        return ip_output(envelope);
    return 0;
}

IP_EXPORT(set_config) {
    ip_str input = ip_input();
    if (input.len > sizeof config_bytes) return ip_fail(ip_s("the configuration is too long"));
    memcpy(config_bytes, input.ptr, input.len);
    config_length = input.len;
    return 0;
}

IP_EXPORT(init) {
    ip_str request = configured("request_in_init");
    if (request.len) tell("answer", ip_host(host_ws_request, request));
    return obey(configured("init"));
}

IP_EXPORT(shutdown) {
    ip_str request = configured("request_in_shutdown");
    if (request.len) tell("answer", ip_host(host_ws_request, request));
    return 0;
}

IP_EXPORT(request) { return ip_output(ip_host(host_ws_request, ip_input())); }

IP_EXPORT(on_connected) {
    tell("on_connected", ip_input());
    return obey(configured("on_connected"));
}

IP_EXPORT(on_disconnected) {
    tell("on_disconnected", ip_input());
    return obey(configured("on_disconnected"));
}

IP_EXPORT(handle_binary_message) {
    ip_str input = ip_input();
    tell("handle_binary_message", input);
    return answer(0, input);
}

IP_EXPORT(handle_text_message) {
    ip_str input = ip_input();
    tell("handle_text_message", input);
    return obey(input);
}
