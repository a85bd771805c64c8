/* Says whatever the host offers it (host_request_file) under the name of the export that was called, so that a test can
 * have a guest answer with any bytes. `on_event` fails with the bytes as its
 * error text. */
#include "isoplug.h"

IP_MANIFEST({
    "id": "test.parrot", "name": "Parrot", "version": "1.0.0", "description": "Test guest",
    "capabilities": ["custom_commands", "file_events"], "commands": ["say"]
})

static ip_str offered(const char *key) { return ip_host(host_request_file, ip_object("key", ip_s(key))); }

IP_EXPORT(handle_command) { return ip_output(offered("handle_command")); }
IP_EXPORT(set_config) { return ip_output(offered("set_config")); }
IP_EXPORT(get_config) { return ip_output(offered("get_config")); }
IP_EXPORT(on_event) { return ip_fail(offered("on_event")); }
