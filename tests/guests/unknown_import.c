/* Imports a host function that no host has; loading it must fail with an error that names the function. */
#include "isoplug.h"

IP_HOST_IMPORT(host_does_not_exist)

IP_MANIFEST({
    "id": "test.unknown-import", "name": "Unknown import", "version": "1.0.0", "description": "Test guest",
    "capabilities": ["custom_commands"], "commands": ["call"]
})

static ip_reply call(ip_str params) { return ip_ok(ip_host(host_does_not_exist, params)); }

IP_COMMANDS({"call", call})
