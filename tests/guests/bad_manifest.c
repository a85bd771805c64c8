/* One wrong manifest per build: -D of EMPTY, NOT_JSON, NOT_OBJECT, MISSING_ID, WRONG_TYPES, NOT_UTF8, HUGE, DEEP, FAIL,
 * TRAP or SPIN. */
#include "isoplug.h"

#define HEAD "{\"id\":\"test.bad-manifest\",\"name\":\"Bad\",\"version\":\"1.0.0\",\"capabilities\":[]"

static void repeat(ip_buffer *b, uint8_t byte, uint32_t count) {
    ip_reserve(b, count);
    memset(b->ptr + b->len, byte, count);
    b->len += count;
}

IP_EXPORT(manifest) {
    ip_buffer b = {0};
#if defined(EMPTY)
#elif defined(NOT_JSON)
    ip_add_s(&b, "{]");
#elif defined(NOT_OBJECT)
    ip_add_s(&b, "[1, 2, 3]");
#elif defined(MISSING_ID)
    ip_add_s(&b, "{\"name\":\"Bad\",\"version\":\"1.0.0\",\"description\":\"d\",\"capabilities\":[]}");
#elif defined(WRONG_TYPES)
    ip_add_s(&b, "{\"id\":7,\"name\":[],\"version\":null,\"description\":{},\"capabilities\":\"all\",\"commands\":3}");
#elif defined(NOT_UTF8)
    ip_add_s(&b, HEAD ",\"description\":\"\xC3\x28 \xFF\"}");
#elif defined(HUGE) /* valid, but 20 MB of it */
    ip_add_s(&b, HEAD ",\"description\":\"");
    repeat(&b, 'x', 20000000);
    ip_add_s(&b, "\"}");
#elif defined(DEEP) /* valid, but deeper than any recursive parser goes */
    ip_add_s(&b, HEAD ",\"description\":\"d\",\"ui\":");
    repeat(&b, '[', 100000);
    repeat(&b, ']', 100000);
    ip_add_s(&b, "}");
#elif defined(FAIL)
    return ip_fail(ip_s("no manifest today"));
#elif defined(TRAP)
    __builtin_trap();
#elif defined(SPIN)
    for (;;) __asm__ volatile("");
#else
#error "say which manifest: see the top of this file"
#endif
    return ip_output(ip_text(&b));
}
