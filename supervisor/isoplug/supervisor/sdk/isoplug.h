/* isoplug.h: write an isoplug guest in C, with no libc and no toolchain but `pip install ziglang`.
 *
 *     #include "isoplug.h"
 *
 *     IP_MANIFEST({
 *         "id": "example.hello", "name": "Hello", "version": "1.0.0", "description": "Greets.",
 *         "capabilities": ["custom_commands"], "commands": ["greet"]
 *     })
 *
 *     static ip_reply greet(ip_str params) {
 *         ip_buffer out = {0};
 *         ip_put_text(&out, ip_concat(ip_s("Hello, "), ip_get_text(params, "name")));
 *         return ip_ok(ip_text(&out));
 *     }
 *
 *     IP_COMMANDS({"greet", greet})
 *
 * Build it with isoplug.supervisor.sdk.build(), or with the command line that its docstring shows.
 *
 * House rules:
 *   - One guest is one C file that includes this header once: the header does not only declare functions, it has them.
 *   - Memory comes from an arena that every export starts afresh, so nothing needs freeing and nothing may be kept:
 *     what must survive until the next call belongs into a static array, or into storage.
 *   - Text is a slice (pointer, length), never NUL-terminated; a slice stays valid until the export returns.
 *   - A function that can be refused returns true for success and leaves the answer, or the host's error text, in its
 *     last argument.
 *   - What the host answers is checked like any input: readers answer "absent" for malformed JSON, they never overrun.
 */
#ifndef ISOPLUG_H
#define ISOPLUG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The header offers more than one guest uses; the linker drops the rest, and no import is made for it. */
#pragma clang diagnostic ignored "-Wunused-function"

/* ---- what clang expects of a C library --------------------------------------------------------------------------- */

/* The compiler emits calls to these four for copies that it cannot unroll. The builtins become memory.copy and
 * memory.fill, single instructions, so they do not call back into these functions. */
void *memcpy(void *target, const void *source, size_t length) { return __builtin_memcpy(target, source, length); }
void *memmove(void *target, const void *source, size_t length) { return __builtin_memmove(target, source, length); }
void *memset(void *target, int byte, size_t length) { return __builtin_memset(target, byte, length); }

int memcmp(const void *left, const void *right, size_t length) {
    const uint8_t *a = left, *b = right;
    for (size_t i = 0; i < length; i++)
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    return 0;
}

/* ---- arena ------------------------------------------------------------------------------------------------------- */

extern uint8_t __heap_base; /* the linker's name for the first byte after stack and static data */

static uintptr_t ip_arena_top; /* next free byte; 0 before the first export ran */

/* ip_reset: empty the arena. IP_EXPORT does it, so a guest that serves for days is as large as its largest call. */
static void ip_reset(void) { ip_arena_top = (uintptr_t)&__heap_base; }

/* ip_mark, ip_release: give back what was allocated in between, for a loop over many large files. Nothing made after
 * the mark may be used after the release, and no builder may have grown between them. */
static uintptr_t ip_mark(void) { return ip_arena_top; }
static void ip_release(uintptr_t mark) { ip_arena_top = mark; }

/* ip_try_alloc: `size` bytes aligned to 16, or NULL when the host grants no more memory. */
static void *ip_try_alloc(size_t size) {
    const uintptr_t page = 65536;
    uint64_t start = ((uint64_t)ip_arena_top + 15) & ~(uint64_t)15;
    uint64_t end = start + size; /* 64 bits: the sum of two 32-bit numbers cannot wrap here */
    uint64_t present = (uint64_t)__builtin_wasm_memory_size(0) * page;
    if (end > UINT32_MAX) return NULL;
    if (end > present) {
        size_t pages = (size_t)((end - present + page - 1) / page);
        if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) return NULL;
    }
    ip_arena_top = (uintptr_t)end;
    return (void *)(uintptr_t)start;
}

/* ip_alloc: like ip_try_alloc, but traps: a guest without memory cannot even build the sentence that says so. */
static void *ip_alloc(size_t size) {
    void *block = ip_try_alloc(size);
    if (!block) __builtin_trap();
    return block;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *ptr;
    uint32_t len;
} ip_str;

#define IP_NONE UINT32_MAX /* "no such index", as ip_find answers it */

/* ip_s: slice of a NUL-terminated string. */
static ip_str ip_s(const char *text) {
    uint32_t length = 0;
    while (text[length]) length++;
    return (ip_str){(const uint8_t *)text, length};
}

/* ip_slice: bytes from..to of `text`, both clamped to it, so that no arithmetic mistake reads beyond. */
static ip_str ip_slice(ip_str text, uint32_t from, uint32_t to) {
    if (to > text.len) to = text.len;
    if (from > to) from = to;
    return (ip_str){text.ptr + from, to - from};
}

/* ip_equal: do both hold the same bytes? */
static bool ip_equal(ip_str a, ip_str b) { return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0; }

/* ip_starts_with, ip_ends_with: byte-wise prefix and suffix. */
static bool ip_starts_with(ip_str text, ip_str prefix) { return ip_equal(ip_slice(text, 0, prefix.len), prefix); }
static bool ip_ends_with(ip_str text, ip_str suffix) {
    return text.len >= suffix.len && ip_equal(ip_slice(text, text.len - suffix.len, text.len), suffix);
}

/* ip_find: index of the first `needle` at or after `from`, or IP_NONE. */
static uint32_t ip_find(ip_str text, ip_str needle, uint32_t from) {
    if (needle.len > text.len) return IP_NONE;
    for (uint32_t at = from; at <= text.len - needle.len; at++)
        if (memcmp(text.ptr + at, needle.ptr, needle.len) == 0) return at;
    return IP_NONE;
}

/* ip_is_space: blank, tab, line feed or carriage return: JSON's white space, and all that Markdown needs. */
static bool ip_is_space(uint8_t byte) { return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r'; }

/* ip_trim: without white space at both ends. */
static ip_str ip_trim(ip_str text) {
    while (text.len && ip_is_space(text.ptr[0])) text = ip_slice(text, 1, text.len);
    while (text.len && ip_is_space(text.ptr[text.len - 1])) text.len--;
    return text;
}

/* ip_utf8_length: bytes of the UTF-8 sequence that `text` starts with, 0 when it is not valid (RFC 3629). */
static uint32_t ip_utf8_length(ip_str text) {
    const uint8_t *p = text.ptr;
    if (!text.len) return 0;
    if (p[0] < 0x80) return 1;
    uint32_t length = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || text.len < length) return 0;
    for (uint32_t i = 1; i < length; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    if (p[0] == 0xE0 && p[1] < 0xA0) return 0; /* would fit in fewer bytes */
    if (p[0] == 0xED && p[1] > 0x9F) return 0; /* surrogate */
    if (p[0] == 0xF0 && p[1] < 0x90) return 0; /* would fit in fewer bytes */
    if (p[0] == 0xF4 && p[1] > 0x8F) return 0; /* above U+10FFFF */
    return length;
}

/* ---- string builder ---------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *ptr;
    uint32_t len, capacity;
} ip_buffer; /* start with {0} */

/* ip_reserve: make room for `extra` more bytes. */
static void ip_reserve(ip_buffer *b, uint32_t extra) {
    uint64_t needed = (uint64_t)b->len + extra;
    if (needed <= b->capacity) return;
    if (needed > INT32_MAX) __builtin_trap();
    /* Doubling keeps the total copied linear; the newest block of the arena grows in place and copies nothing. */
    uint32_t capacity = needed < 32 ? 64 : (uint32_t)needed * 2;
    if (b->ptr && (uintptr_t)(b->ptr + b->capacity) == ip_arena_top) {
        ip_arena_top = (uintptr_t)b->ptr;
        ip_alloc(capacity);
    } else {
        uint8_t *larger = ip_alloc(capacity);
        memcpy(larger, b->ptr, b->len);
        b->ptr = larger;
    }
    b->capacity = capacity;
}

/* ip_add, ip_add_s, ip_add_byte, ip_add_int: append a slice, a C string, one byte, a decimal number. */
static void ip_add(ip_buffer *b, ip_str text) {
    ip_reserve(b, text.len);
    memcpy(b->ptr + b->len, text.ptr, text.len);
    b->len += text.len;
}
static void ip_add_s(ip_buffer *b, const char *text) { ip_add(b, ip_s(text)); }
static void ip_add_byte(ip_buffer *b, uint8_t byte) { ip_add(b, (ip_str){&byte, 1}); }
static void ip_add_int(ip_buffer *b, int64_t number) {
    uint8_t digits[20];
    uint32_t at = sizeof digits;
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number; /* INT64_MIN has no positive twin */
    do digits[--at] = (uint8_t)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0) ip_add_byte(b, '-');
    ip_add(b, (ip_str){digits + at, (uint32_t)sizeof digits - at});
}

/* ip_text: what the builder holds so far. */
static ip_str ip_text(const ip_buffer *b) { return (ip_str){b->ptr, b->len}; }

/* ip_concat(a, b, ...): the slices in one. */
#define ip_concat(...) \
    ip_concat_all((const ip_str[]){__VA_ARGS__}, sizeof((const ip_str[]){__VA_ARGS__}) / sizeof(ip_str))
static ip_str ip_concat_all(const ip_str *parts, uint32_t count) {
    ip_buffer b = {0};
    for (uint32_t i = 0; i < count; i++) ip_add(&b, parts[i]);
    return ip_text(&b);
}

/* ip_decimal: a number as text. */
static ip_str ip_decimal(int64_t number) {
    ip_buffer b = {0};
    ip_add_int(&b, number);
    return ip_text(&b);
}

/* ---- JSON writer ------------------------------------------------------------------------------------------------- */

/* The writer needs no state beyond its buffer: a value needs a comma before it unless the buffer is empty or ends in an
 * opening bracket or a colon, and no finished value ends in one of these. */
static void ip_put_comma(ip_buffer *b) {
    uint8_t last = b->len ? b->ptr[b->len - 1] : '[';
    if (last != '[' && last != '{' && last != ':') ip_add_byte(b, ',');
}

/* ip_put_raw: a value that is JSON already; an empty slice becomes null. */
static void ip_put_raw(ip_buffer *b, ip_str json) {
    ip_put_comma(b);
    if (json.len) ip_add(b, json);
    else ip_add_s(b, "null");
}

/* ip_put_open, ip_put_close: '{' or '[' and the bracket that ends it. */
static void ip_put_open(ip_buffer *b, char bracket) {
    ip_put_comma(b);
    ip_add_byte(b, (uint8_t)bracket);
}
static void ip_put_close(ip_buffer *b, char bracket) { ip_add_byte(b, (uint8_t)bracket); }

/* ip_put_int, ip_put_bool: a number, true or false. */
static void ip_put_int(ip_buffer *b, int64_t number) {
    ip_put_comma(b);
    ip_add_int(b, number);
}
static void ip_put_bool(ip_buffer *b, bool value) { ip_put_raw(b, ip_s(value ? "true" : "false")); }

static void ip_put_control(ip_buffer *b, uint8_t byte) {
    const char *hex = "0123456789abcdef";
    switch (byte) {
    case '\n': ip_add_s(b, "\\n"); return;
    case '\r': ip_add_s(b, "\\r"); return;
    case '\t': ip_add_s(b, "\\t"); return;
    default:
        ip_add_s(b, "\\u00");
        ip_add_byte(b, (uint8_t)hex[byte >> 4]);
        ip_add_byte(b, (uint8_t)hex[byte & 15]);
    }
}

static bool ip_is_plain(uint8_t byte) { return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\'; }

/* ip_put_text: a string, escaped. Bytes that are not UTF-8 become U+FFFD: the result is always valid JSON. */
static void ip_put_text(ip_buffer *b, ip_str text) {
    ip_put_comma(b);
    ip_reserve(b, text.len + 2); /* nearly always enough; a reserve per byte would be slow */
    ip_add_byte(b, '"');
    for (uint32_t at = 0; at < text.len;) {
        uint32_t run = at;
        while (run < text.len && ip_is_plain(text.ptr[run])) run++;
        ip_add(b, ip_slice(text, at, run));
        if ((at = run) == text.len) break;
        uint8_t byte = text.ptr[at];
        uint32_t length = 1;
        if (byte == '"' || byte == '\\') {
            ip_add_byte(b, '\\');
            ip_add_byte(b, byte);
        } else if (byte < 0x20) {
            ip_put_control(b, byte);
        } else if ((length = ip_utf8_length(ip_slice(text, at, text.len)))) {
            ip_add(b, ip_slice(text, at, at + length));
        } else {
            ip_add_s(b, "\xEF\xBF\xBD");
            length = 1;
        }
        at += length;
    }
    ip_add_byte(b, '"');
}

/* ip_put_key: the name of the field whose value is put next. */
static void ip_put_key(ip_buffer *b, const char *key) {
    ip_put_text(b, ip_s(key));
    ip_add_byte(b, ':');
}

/* ip_put_text_field, ip_put_int_field, ip_put_bool_field, ip_put_raw_field: key and value in one. */
static void ip_put_text_field(ip_buffer *b, const char *key, ip_str value) {
    ip_put_key(b, key);
    ip_put_text(b, value);
}
static void ip_put_int_field(ip_buffer *b, const char *key, int64_t value) {
    ip_put_key(b, key);
    ip_put_int(b, value);
}
static void ip_put_bool_field(ip_buffer *b, const char *key, bool value) {
    ip_put_key(b, key);
    ip_put_bool(b, value);
}
static void ip_put_raw_field(ip_buffer *b, const char *key, ip_str value) {
    ip_put_key(b, key);
    ip_put_raw(b, value);
}

/* ---- JSON reader ------------------------------------------------------------------------------------------------- */

/* The reader walks the text; it builds nothing. It finds every value of valid JSON and stays inside the slice for any
 * other bytes, but it does not judge: a guest that must refuse malformed JSON has to look harder. */

static uint32_t ip_json_space(ip_str json, uint32_t at) {
    while (at < json.len && ip_is_space(json.ptr[at])) at++;
    return at;
}

static uint32_t ip_json_string_end(ip_str json, uint32_t at) { /* `at` is the opening quote */
    for (at++; at < json.len; at++) {
        if (json.ptr[at] == '"') return at + 1;
        if (json.ptr[at] == '\\') at++;
    }
    return json.len;
}

/* One loop with a counter, not recursion: the host chooses how deeply its answer is nested, the stack is 64 KiB. */
static uint32_t ip_json_value_end(ip_str json, uint32_t at) {
    uint32_t depth = 0;
    while (at < json.len) {
        uint8_t byte = json.ptr[at];
        if (byte == '"') {
            at = ip_json_string_end(json, at);
            if (!depth) return at;
        } else if (byte == '{' || byte == '[') {
            depth++, at++;
        } else if (byte == '}' || byte == ']') {
            if (!depth) return at; /* the bracket closes what surrounds a number or a word */
            at++;
            if (!--depth) return at;
        } else if (!depth && (byte == ',' || ip_is_space(byte))) {
            return at;
        } else {
            at++;
        }
    }
    return at;
}

typedef struct {
    ip_str rest;       /* what has not been visited */
    ip_str key, value; /* raw JSON; `key` is empty in arrays */
    bool is_object;
} ip_items;

/* ip_each: begin a walk over an array or object; anything else has no items. */
static ip_items ip_each(ip_str json) {
    json = ip_trim(json);
    bool is_object = json.len && json.ptr[0] == '{', is_array = json.len && json.ptr[0] == '[';
    ip_items items = {.is_object = is_object};
    if (is_object || is_array) items.rest = ip_slice(json, 1, json.len);
    return items;
}

/* ip_next: step to the next item; false at the end. */
static bool ip_next(ip_items *items) {
    ip_str rest = items->rest;
    uint32_t at = ip_json_space(rest, 0);
    if (at < rest.len && rest.ptr[at] == ',') at = ip_json_space(rest, at + 1);
    items->key = (ip_str){0};
    if (items->is_object) {
        if (at >= rest.len || rest.ptr[at] != '"') return false;
        uint32_t end = ip_json_string_end(rest, at);
        items->key = ip_slice(rest, at, end);
        at = ip_json_space(rest, end);
        if (at >= rest.len || rest.ptr[at] != ':') return false;
        at = ip_json_space(rest, at + 1);
    }
    uint32_t end = ip_json_value_end(rest, at);
    if (end == at) return false; /* a closing bracket, the end, or a comma where a value belongs */
    items->value = ip_slice(rest, at, end);
    items->rest = ip_slice(rest, end, rest.len);
    return true;
}

static void ip_add_utf8(ip_buffer *b, uint32_t code) {
    if (code < 0x80) {
        ip_add_byte(b, (uint8_t)code);
        return;
    }
    uint32_t tails = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    uint8_t lead = tails == 1 ? 0xC0 : tails == 2 ? 0xE0 : 0xF0;
    ip_add_byte(b, (uint8_t)(lead | code >> 6 * tails));
    while (tails--) ip_add_byte(b, (uint8_t)(0x80 | ((code >> 6 * tails) & 0x3F)));
}

static uint32_t ip_hex4(ip_str json, uint32_t at) { /* the four digits of \uXXXX, or IP_NONE */
    uint32_t code = 0;
    if (json.len < 4 || at > json.len - 4) return IP_NONE;
    for (uint32_t i = at; i < at + 4; i++) {
        uint8_t byte = json.ptr[i], lower = byte | 0x20;
        if (byte >= '0' && byte <= '9') code = code << 4 | (uint32_t)(byte - '0');
        else if (lower >= 'a' && lower <= 'f') code = code << 4 | (uint32_t)(lower - 'a' + 10);
        else return IP_NONE;
    }
    return code;
}

/* `at` is the index behind \u; the answer is the one behind the whole escape. */
static uint32_t ip_add_unicode_escape(ip_buffer *b, ip_str json, uint32_t at) {
    uint32_t code = ip_hex4(json, at);
    if (code == IP_NONE) {
        ip_add_utf8(b, 0xFFFD);
        return at;
    }
    at += 4;
    bool is_high = code >= 0xD800 && code < 0xDC00, is_low = code >= 0xDC00 && code < 0xE000;
    if (is_high && ip_starts_with(ip_slice(json, at, json.len), ip_s("\\u"))) {
        uint32_t low = ip_hex4(json, at + 2);
        if (low != IP_NONE && low >= 0xDC00 && low < 0xE000) {
            ip_add_utf8(b, 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00));
            return at + 6;
        }
    }
    ip_add_utf8(b, is_high || is_low ? 0xFFFD : code); /* half a pair is no character */
    return at;
}

/* ip_decode_text: the text of a raw JSON string; empty for any other value. */
static ip_str ip_decode_text(ip_str json) {
    if (json.len < 2 || json.ptr[0] != '"' || json.ptr[json.len - 1] != '"') return (ip_str){0};
    json = ip_slice(json, 1, json.len - 1);
    ip_buffer b = {0};
    ip_reserve(&b, json.len);
    for (uint32_t at = 0; at < json.len;) {
        uint32_t run = at;
        while (run < json.len && json.ptr[run] != '\\') run++;
        ip_add(&b, ip_slice(json, at, run));
        if (run + 1 >= json.len) break;
        uint8_t escape = json.ptr[run + 1];
        at = run + 2;
        switch (escape) {
        case 'n': ip_add_byte(&b, '\n'); break;
        case 't': ip_add_byte(&b, '\t'); break;
        case 'r': ip_add_byte(&b, '\r'); break;
        case 'b': ip_add_byte(&b, '\b'); break;
        case 'f': ip_add_byte(&b, '\f'); break;
        case 'u': at = ip_add_unicode_escape(&b, json, at); break;
        default: ip_add_byte(&b, escape);
        }
    }
    return ip_text(&b);
}

/* ip_get: raw JSON of a field of an object; empty when it is absent. */
static ip_str ip_get(ip_str object, const char *key) {
    ip_str wanted = ip_s(key);
    ip_items items = ip_each(object);
    while (items.is_object && ip_next(&items)) {
        ip_str inside = ip_slice(items.key, 1, items.key.len - 1);
        bool is_escaped = ip_find(inside, ip_s("\\"), 0) != IP_NONE;
        if (ip_equal(is_escaped ? ip_decode_text(items.key) : inside, wanted)) return items.value;
    }
    return (ip_str){0};
}

/* ip_get_text: a string field, decoded; empty when absent or not a string. */
static ip_str ip_get_text(ip_str object, const char *key) { return ip_decode_text(ip_get(object, key)); }

/* ip_to_int: a whole number that fits in int64, or `otherwise`. */
static int64_t ip_to_int(ip_str json, int64_t otherwise) {
    bool is_negative = json.len && json.ptr[0] == '-';
    uint64_t number = 0, bound = (uint64_t)INT64_MAX + is_negative;
    if (json.len == is_negative) return otherwise;
    for (uint32_t at = is_negative; at < json.len; at++) {
        uint64_t digit = (uint64_t)json.ptr[at] - '0'; /* wraps to something large for bytes below '0' */
        if (digit > 9 || number > (bound - digit) / 10) return otherwise;
        number = number * 10 + digit;
    }
    return (int64_t)(is_negative ? 0 - number : number);
}

/* ip_get_int: a whole-number field, or `otherwise`. */
static int64_t ip_get_int(ip_str object, const char *key, int64_t otherwise) {
    return ip_to_int(ip_get(object, key), otherwise);
}

/* ip_get_bool: is the field exactly true? */
static bool ip_get_bool(ip_str object, const char *key) { return ip_equal(ip_get(object, key), ip_s("true")); }

/* ---- base64 (RFC 4648, with padding) ----------------------------------------------------------------------------- */

/* ip_to_base64: bytes as base64 text. */
static ip_str ip_to_base64(ip_str bytes) {
    const char *alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t length = (uint32_t)(((uint64_t)bytes.len + 2) / 3 * 4);
    uint8_t *text = ip_alloc(length), *p = text;
    for (uint32_t at = 0; at < bytes.len; at += 3) {
        uint32_t left = bytes.len - at, group = (uint32_t)bytes.ptr[at] << 16;
        if (left > 1) group |= (uint32_t)bytes.ptr[at + 1] << 8;
        if (left > 2) group |= bytes.ptr[at + 2];
        *p++ = (uint8_t)alphabet[group >> 18];
        *p++ = (uint8_t)alphabet[group >> 12 & 63];
        *p++ = left > 1 ? (uint8_t)alphabet[group >> 6 & 63] : '=';
        *p++ = left > 2 ? (uint8_t)alphabet[group & 63] : '=';
    }
    return (ip_str){text, length};
}

static uint32_t ip_base64_digit(uint8_t byte) {
    if (byte >= 'A' && byte <= 'Z') return (uint32_t)(byte - 'A');
    if (byte >= 'a' && byte <= 'z') return (uint32_t)(byte - 'a' + 26);
    if (byte >= '0' && byte <= '9') return (uint32_t)(byte - '0' + 52);
    return byte == '+' ? 62 : byte == '/' ? 63 : IP_NONE;
}

/* ip_from_base64: the bytes of base64 text; false when a character or the length is wrong. */
static bool ip_from_base64(ip_str text, ip_str *bytes) {
    while (text.len && text.ptr[text.len - 1] == '=') text.len--;
    uint8_t *target = ip_alloc(text.len / 4 * 3 + 3);
    uint32_t length = 0, group = 0, bits = 0;
    for (uint32_t at = 0; at < text.len; at++) {
        uint32_t digit = ip_base64_digit(text.ptr[at]);
        if (digit == IP_NONE) return false;
        group = group << 6 | digit;
        if ((bits += 6) >= 8) target[length++] = (uint8_t)(group >> (bits -= 8));
    }
    *bytes = (ip_str){target, length};
    return text.len % 4 != 1; /* six bits alone are not a byte */
}

/* ---- the door to Extism ------------------------------------------------------------------------------------------ */

typedef uint64_t ip_offset; /* a block of Extism's own memory, where input, output and host calls live; 0 is none */

#define IP_ENV(name) __attribute__((import_module("extism:host/env"), import_name(#name))) extern
IP_ENV(input_length) uint64_t ip_env_input_length(void);
IP_ENV(input_load_u8) uint32_t ip_env_input_load_u8(uint64_t index);
IP_ENV(input_load_u64) uint64_t ip_env_input_load_u64(uint64_t index);
IP_ENV(alloc) ip_offset ip_env_alloc(uint64_t length);
IP_ENV(free) void ip_env_free(ip_offset block);
IP_ENV(length) uint64_t ip_env_length(ip_offset block);
IP_ENV(load_u8) uint32_t ip_env_load_u8(ip_offset at);
IP_ENV(load_u64) uint64_t ip_env_load_u64(ip_offset at);
IP_ENV(store_u8) void ip_env_store_u8(ip_offset at, uint32_t byte);
IP_ENV(store_u64) void ip_env_store_u64(ip_offset at, uint64_t word);
IP_ENV(output_set) void ip_env_output_set(ip_offset block, uint64_t length);
IP_ENV(error_set) void ip_env_error_set(ip_offset block);

static uint8_t *ip_alloc_exactly(uint64_t length) {
    if (length > UINT32_MAX) __builtin_trap(); /* more than this memory can ever hold */
    return ip_alloc((size_t)length);
}

/* ip_input: the bytes this export was called with. Eight at a time: each access is a call into another instance. */
static ip_str ip_input(void) {
    uint64_t length = ip_env_input_length(), at = 0;
    uint8_t *copy = ip_alloc_exactly(length);
    for (; at + 8 <= length; at += 8) *(uint64_t *)(copy + at) = ip_env_input_load_u64(at);
    for (; at < length; at++) copy[at] = (uint8_t)ip_env_input_load_u8(at);
    return (ip_str){copy, (uint32_t)length};
}

/* ip_load: a copy of a block of Extism's memory; empty for 0 and for what is no block. */
static ip_str ip_load(ip_offset block) {
    uint64_t length = block ? ip_env_length(block) : 0, at = 0;
    uint8_t *copy = ip_alloc_exactly(length);
    for (; at + 8 <= length; at += 8) *(uint64_t *)(copy + at) = ip_env_load_u64(block + at);
    for (; at < length; at++) copy[at] = (uint8_t)ip_env_load_u8(block + at);
    return (ip_str){copy, (uint32_t)length};
}

/* ip_store: a block of Extism's memory with these bytes; 0 for none of them. */
static ip_offset ip_store(ip_str bytes) {
    ip_offset block = ip_env_alloc(bytes.len);
    uint32_t at = 0;
    if (!block && bytes.len) __builtin_trap();
    for (; bytes.len - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, bytes.ptr + at, 8); /* a slice may start at any address */
        ip_env_store_u64(block + at, word);
    }
    for (; at < bytes.len; at++) ip_env_store_u8(block + at, bytes.ptr[at]);
    return block;
}

/* ip_output: set this export's answer; `return ip_output(x);` ends it with success. */
static int ip_output(ip_str bytes) {
    ip_env_output_set(ip_store(bytes), bytes.len);
    return 0;
}

/* ip_fail: set this export's error; `return ip_fail(x);` ends it with failure. */
static int ip_fail(ip_str message) {
    ip_env_error_set(ip_store(message));
    return 1;
}

/* IP_EXPORT(name) { ... return 0; }: an export of the guest, with a fresh arena. Non-zero means failure. */
#define IP_EXPORT(name)                                                 \
    static int ip_body_##name(void);                                    \
    __attribute__((export_name(#name))) int ip_export_##name(void) {    \
        ip_reset();                                                     \
        return ip_body_##name();                                        \
    }                                                                   \
    static int ip_body_##name(void)

/* IP_MANIFEST({...}): the `manifest` export, with the JSON written as it is: the preprocessor quotes it. */
#define IP_MANIFEST(...) \
    IP_EXPORT(manifest) { return ip_output(ip_s(#__VA_ARGS__)); }

/* ---- host functions ---------------------------------------------------------------------------------------------- */

/* IP_HOST_FUNCTIONS(X): X(name) for each of the 41 functions that a host offers. */
#define IP_HOST_FUNCTIONS(X)                                                                                     \
    X(host_log) X(host_read_file) X(host_read_binary) X(host_list_files) X(host_list_dir)                        \
    X(host_workspace_file_set) X(host_file_exists) X(host_file_metadata) X(host_hash_file) X(host_write_file)    \
    X(host_write_binary) X(host_delete_file) X(host_emit_event) X(host_storage_get) X(host_storage_set)          \
    X(host_secret_get) X(host_secret_set) X(host_secret_delete) X(host_get_timestamp) X(host_get_now)            \
    X(host_http_request) X(host_proxy_request) X(host_request_file) X(host_plugin_command)                       \
    X(host_get_runtime_context) X(host_run_wasi_module) X(host_ws_request) X(host_is_cancelled)                  \
    X(host_namespace_create) X(host_namespace_list) X(host_namespace_put_object) X(host_namespace_get_object)    \
    X(host_namespace_get_objects_batch) X(host_namespace_get_objects_batches_concurrent)                         \
    X(host_namespace_delete_object) X(host_namespace_list_objects) X(host_namespace_sync_audience)               \
    X(host_namespace_list_audiences) X(host_namespace_delete_audience) X(host_namespace_send_email)              \
    X(host_namespace_build)

typedef ip_offset ip_host_function(ip_offset input);
#define IP_HOST_IMPORT(name) \
    __attribute__((import_module("extism:host/user"), import_name(#name))) extern ip_host_function name;
IP_HOST_FUNCTIONS(IP_HOST_IMPORT)

/* ip_host: call any host function: `ip_host(host_namespace_list, ip_s("{}"))`. The answer is raw bytes. */
static ip_str ip_host(ip_host_function *function, ip_str input) {
    ip_offset request = ip_store(input);
    ip_offset answer = function(request);
    ip_str bytes = ip_load(answer);
    /* Extism frees its blocks only when the export ends; a walk over a large workspace would pile them up. */
    if (request) ip_env_free(request);
    if (answer && answer != request) ip_env_free(answer);
    return bytes;
}

static ip_str ip_object(const char *key, ip_str value) { /* {"key":"value"} */
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, key, value);
    ip_put_close(&b, '}');
    return ip_text(&b);
}

static ip_str ip_object2(const char *key, ip_str value, const char *key2, ip_str value2) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, key, value);
    ip_put_text_field(&b, key2, value2);
    ip_put_close(&b, '}');
    return ip_text(&b);
}

/* ip_is_error: is this the envelope {"error": ...}? By its prefix, as the protocol says; so a text file that begins
 * with the same nine bytes looks like a failure. Read such files with ip_read_binary. */
static bool ip_is_error(ip_str answer, ip_str *message) {
    if (!ip_starts_with(answer, ip_s("{\"error\""))) return false;
    *message = ip_get_text(answer, "error");
    return true;
}

/* For functions that fail with an envelope. */
static bool ip_answer(ip_host_function *function, ip_str request, ip_str *out) {
    *out = ip_host(function, request);
    return !ip_is_error(*out, out);
}

/* For functions that answer nothing, or fail with a plain string. */
static bool ip_done(ip_host_function *function, ip_str request, ip_str *error) {
    *error = ip_host(function, request);
    return error->len == 0;
}

/* ip_log: write to the host's log; levels are "debug", "info", "warn", "error". */
static void ip_log(const char *level, ip_str message) {
    ip_host(host_log, ip_object2("level", ip_s(level), "message", message));
}

/* ip_read_file: text of a file. */
static bool ip_read_file(ip_str path, ip_str *out) { return ip_answer(host_read_file, ip_object("path", path), out); }

/* ip_read_binary: bytes of a file. */
static bool ip_read_binary(ip_str path, ip_str *out) {
    if (!ip_answer(host_read_binary, ip_object("path", path), out)) return false;
    if (ip_from_base64(ip_get_text(*out, "data"), out)) return true;
    *out = ip_s("the host answered no base64");
    return false;
}

/* ip_write_file, ip_write_binary: create or replace a file. */
static bool ip_write_file(ip_str path, ip_str content, ip_str *error) {
    return ip_done(host_write_file, ip_object2("path", path, "content", content), error);
}
static bool ip_write_binary(ip_str path, ip_str bytes, ip_str *error) {
    return ip_done(host_write_binary, ip_object2("path", path, "content", ip_to_base64(bytes)), error);
}

/* ip_delete_file: remove a file. */
static bool ip_delete_file(ip_str path, ip_str *error) {
    return ip_done(host_delete_file, ip_object("path", path), error);
}

/* ip_file_exists: is there a file or folder that this plugin may see? */
static bool ip_file_exists(ip_str path) {
    return ip_equal(ip_trim(ip_host(host_file_exists, ip_object("path", path))), ip_s("true"));
}

/* ip_list_files, ip_list_dir: JSON array of paths, everything below or direct children. */
static bool ip_list_files(ip_str prefix, ip_str *out) {
    return ip_answer(host_list_files, ip_object("prefix", prefix), out);
}
static bool ip_list_dir(ip_str path, ip_str *out) { return ip_answer(host_list_dir, ip_object("path", path), out); }

/* ip_workspace_files: JSON array of the files that the workspace's root index leads to. */
static bool ip_workspace_files(ip_str *out) {
    *out = ip_trim(ip_host(host_workspace_file_set, ip_s("{}")));
    if (out->len && out->ptr[0] == '[') return true; /* this one fails with a plain string, which is no array */
    ip_is_error(*out, out);
    return false;
}

/* ip_storage_get: bytes kept under a key; false when there are none (or the host refuses: it does not say which). */
static bool ip_storage_get(ip_str key, ip_str *out) {
    ip_str answer = ip_host(host_storage_get, ip_object("key", key));
    return ip_get(answer, "data").len && ip_from_base64(ip_get_text(answer, "data"), out);
}

/* ip_storage_set: keep bytes under a key, for good; none delete it. */
static bool ip_storage_set(ip_str key, ip_str bytes, ip_str *error) {
    return ip_done(host_storage_set, ip_object2("key", key, "data", ip_to_base64(bytes)), error);
}

/* ip_secret_get, ip_secret_set, ip_secret_delete: like storage, encrypted at rest, text. */
static bool ip_secret_get(ip_str key, ip_str *out) {
    ip_str answer = ip_host(host_secret_get, ip_object("key", key));
    *out = ip_get_text(answer, "value");
    return ip_get(answer, "value").len != 0;
}
static bool ip_secret_set(ip_str key, ip_str value, ip_str *error) {
    return ip_done(host_secret_set, ip_object2("key", key, "value", value), error);
}
static bool ip_secret_delete(ip_str key, ip_str *error) {
    return ip_done(host_secret_delete, ip_object("key", key), error);
}

/* ip_now: local time as RFC 3339, such as 2025-03-09T08:30:00+01:00. */
static ip_str ip_now(void) { return ip_host(host_get_now, (ip_str){0}); }

/* ip_timestamp: milliseconds since the epoch; 0 when the host answers nonsense. */
static int64_t ip_timestamp(void) { return ip_to_int(ip_trim(ip_host(host_get_timestamp, (ip_str){0})), 0); }

/* ip_emit_event: tell the host something, as JSON. */
static void ip_emit_event(ip_str json) { ip_host(host_emit_event, json); }

/* ip_is_cancelled: did the host cancel the work that goes by this token? */
static bool ip_is_cancelled(ip_str token) {
    return ip_get_bool(ip_host(host_is_cancelled, ip_object("token", token)), "cancelled");
}

/* ip_command: run another plugin's command; `params` is JSON, the answer is raw JSON. */
static bool ip_command(ip_str plugin_id, ip_str command, ip_str params, ip_str *out) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "plugin_id", plugin_id);
    ip_put_text_field(&b, "command", command);
    ip_put_raw_field(&b, "params", params);
    ip_put_close(&b, '}');
    ip_str answer = ip_host(host_plugin_command, ip_text(&b));
    bool is_success = ip_get_bool(answer, "success");
    *out = is_success ? ip_get(answer, "data") : ip_get_text(answer, "error");
    return is_success;
}

/* ip_request_file: bytes that the host offers under a key; false when there are none. */
static bool ip_request_file(ip_str key, ip_str *out) {
    *out = ip_host(host_request_file, ip_object("key", key));
    return out->len != 0;
}

/* ---- network ----------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t status; /* 0 when there is no answer */
    ip_str headers; /* JSON object */
    ip_str body;    /* bytes; without an answer, why not */
} ip_http_reply;

static bool ip_http_answer(ip_host_function *function, const ip_buffer *request, ip_http_reply *reply) {
    ip_str answer = ip_host(function, ip_text(request));
    reply->status = ip_get_int(answer, "status", 0);
    reply->headers = ip_get(answer, "headers");
    if (reply->status && ip_from_base64(ip_get_text(answer, "body_base64"), &reply->body)) return true;
    reply->status = 0;
    reply->body = ip_get_text(answer, "error");
    return false;
}

/* ip_http: an HTTP request. `headers` is a JSON object, empty for none; `body` is any bytes. True when a server
 * answered, with whatever status. */
static bool ip_http(const char *method, ip_str url, ip_str headers, ip_str body, ip_http_reply *reply) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "url", url);
    ip_put_text_field(&b, "method", ip_s(method));
    ip_put_raw_field(&b, "headers", headers.len ? headers : ip_s("{}"));
    if (body.len) ip_put_text_field(&b, "body_base64", ip_to_base64(body));
    ip_put_close(&b, '}');
    return ip_http_answer(host_http_request, &b, reply);
}

/* ip_http_get, ip_http_post: the common ones. */
static bool ip_http_get(ip_str url, ip_http_reply *reply) {
    return ip_http("GET", url, (ip_str){0}, (ip_str){0}, reply);
}
static bool ip_http_post(ip_str url, const char *content_type, ip_str body, ip_http_reply *reply) {
    return ip_http("POST", url, ip_object("content-type", ip_s(content_type)), body, reply);
}

/* ip_proxy: POST JSON to a service that the host's server passes on to, with the server's credentials. An empty `path`
 * is the service itself. */
static bool ip_proxy(ip_str proxy_id, ip_str path, ip_str json, ip_http_reply *reply) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "proxy_id", proxy_id);
    if (path.len) ip_put_text_field(&b, "path", path);
    ip_put_text_field(&b, "body", json);
    ip_put_close(&b, '}');
    return ip_http_answer(host_proxy_request, &b, reply);
}

static bool ip_ws(ip_str request, ip_str *error) {
    ip_str answer = ip_host(host_ws_request, request);
    *error = ip_get_text(answer, "error");
    return ip_get_bool(answer, "ok");
}

/* ip_ws_connect: open this plugin's WebSocket, or keep it when it is the same. The exports on_connected,
 * handle_text_message, handle_binary_message and on_disconnected hear what happens. An empty token is none. */
static bool ip_ws_connect(ip_str server_url, ip_str workspace_id, ip_str auth_token, ip_str *error) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "type", ip_s("connect"));
    ip_put_text_field(&b, "server_url", server_url);
    ip_put_text_field(&b, "workspace_id", workspace_id);
    if (auth_token.len) ip_put_text_field(&b, "auth_token", auth_token);
    ip_put_close(&b, '}');
    return ip_ws(ip_text(&b), error);
}

/* ip_ws_send_text, ip_ws_send_binary, ip_ws_disconnect: what is sent before the connection stands waits for it. */
static bool ip_ws_send_text(ip_str text, ip_str *error) {
    return ip_ws(ip_object2("type", ip_s("send_text"), "text", text), error);
}
static bool ip_ws_send_binary(ip_str bytes, ip_str *error) {
    return ip_ws(ip_object2("type", ip_s("send_binary"), "data", ip_to_base64(bytes)), error);
}
static bool ip_ws_disconnect(ip_str *error) { return ip_ws(ip_object("type", ip_s("disconnect")), error); }

/* ---- namespaces -------------------------------------------------------------------------------------------------- */

/* ip_namespace_create: a new namespace; its id, or why not. `metadata` is JSON, empty for none. */
static bool ip_namespace_create(ip_str metadata, ip_str *id) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    if (metadata.len) ip_put_raw_field(&b, "metadata", metadata);
    ip_put_close(&b, '}');
    if (!ip_answer(host_namespace_create, ip_text(&b), id)) return false;
    *id = ip_get_text(*id, "id");
    return true;
}

/* ip_namespace_put: store an object. An empty `audience` keeps it private. */
static bool ip_namespace_put(ip_str id, ip_str key, const char *mime_type, ip_str audience, ip_str bytes, ip_str *error) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "ns_id", id);
    ip_put_text_field(&b, "key", key);
    ip_put_text_field(&b, "mime_type", ip_s(mime_type));
    if (audience.len) ip_put_text_field(&b, "audience", audience);
    ip_put_text_field(&b, "body_base64", ip_to_base64(bytes));
    ip_put_close(&b, '}');
    return ip_answer(host_namespace_put_object, ip_text(&b), error);
}

/* ip_namespace_get: bytes of an object. */
static bool ip_namespace_get(ip_str id, ip_str key, ip_str *out) {
    if (!ip_answer(host_namespace_get_object, ip_object2("ns_id", id, "key", key), out)) return false;
    if (ip_from_base64(ip_get_text(*out, "data"), out)) return true;
    *out = ip_s("the host answered no base64");
    return false;
}

/* ip_namespace_list: JSON array of what is stored under keys that begin with `prefix`. */
static bool ip_namespace_list(ip_str id, ip_str prefix, ip_str *out) {
    return ip_answer(host_namespace_list_objects, ip_object2("ns_id", id, "prefix", prefix), out);
}

/* ---- commands of this guest -------------------------------------------------------------------------------------- */

typedef struct {
    bool is_success;
    ip_str data;                    /* JSON; empty means null */
    ip_str message;                 /* why not */
    const char *error_code;         /* "permission_denied", "config_error", or a word of the guest's own */
} ip_reply;

/* ip_ok: success with this JSON. */
static ip_reply ip_ok(ip_str data) { return (ip_reply){.is_success = true, .data = data}; }

/* ip_refuse: failure with a machine-readable code and a sentence for people. */
static ip_reply ip_refuse(const char *error_code, ip_str message) {
    return (ip_reply){.message = message, .error_code = error_code};
}

/* ip_output_reply: the answer of `handle_command`. */
static int ip_output_reply(ip_reply reply) {
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_bool_field(&b, "success", reply.is_success);
    if (reply.is_success) {
        ip_put_raw_field(&b, "data", reply.data);
    } else {
        ip_put_text_field(&b, "error", reply.message);
        ip_put_text_field(&b, "error_code", ip_s(reply.error_code));
    }
    ip_put_close(&b, '}');
    return ip_output(ip_text(&b));
}

typedef struct {
    const char *name;
    ip_reply (*run)(ip_str params); /* `params` is raw JSON, empty when the caller sent none */
} ip_command_entry;

static int ip_dispatch(const ip_command_entry *entries, uint32_t count) {
    ip_str input = ip_input(), name = ip_get_text(input, "command"), params = ip_get(input, "params");
    for (uint32_t i = 0; i < count; i++)
        if (ip_equal(name, ip_s(entries[i].name))) return ip_output_reply(entries[i].run(params));
    return ip_output_reply(ip_refuse("unknown_command", ip_concat(ip_s("no such command: "), name)));
}

/* IP_COMMANDS({"name", function}, ...): the `handle_command` export. List the same names in the manifest. */
#define IP_COMMANDS(...)                                                                     \
    static const ip_command_entry ip_command_entries[] = {__VA_ARGS__};                      \
    IP_EXPORT(handle_command) {                                                              \
        return ip_dispatch(ip_command_entries, sizeof ip_command_entries / sizeof(ip_command_entry)); \
    }

#endif
