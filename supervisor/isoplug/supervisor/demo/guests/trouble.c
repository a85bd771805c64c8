/* demo.trouble: a plugin that misbehaves on request and asks for no permission, so that the demo can show what then
 * happens to the others: nothing. */
#include "isoplug.h"
#include "common.h"

IP_MANIFEST({
    "id": "demo.trouble",
    "name": "Trouble",
    "version": "1.0.0",
    "description": "Misbehaves on request: spins, traps, and reads what it may not.",
    "protocol_version": 1,
    "min_app_version": "1.4.0",
    "capabilities": ["custom_commands"],
    "commands": ["spin", "trap", "peek"],
    "requested_permissions": {"defaults": {}, "reasons": {}}
})

static ip_reply spin(ip_str params) {
    (void)params;
    for (;;) __asm__ volatile(""); /* a loop without effect may be removed: C says that it ends */
}

static ip_reply trap(ip_str params) {
    (void)params;
    __builtin_trap();
}

static ip_reply peek(ip_str params) {
    ip_str text;
    if (!ip_read_file(ip_get_text(params, "path"), &text)) return host_said_no(text);
    ip_buffer out = {0};
    ip_put_text(&out, text);
    return ip_ok(ip_text(&out));
}

IP_COMMANDS({"spin", spin}, {"trap", trap}, {"peek", peek})
