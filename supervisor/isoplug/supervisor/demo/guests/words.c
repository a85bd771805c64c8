/* diaryx.words: how much has been written. Totals are kept in the plugin's storage, saves are counted in memory. */
#include "isoplug.h"

#define SELF "diaryx.words"
#define WITH_BOUNCE
#include "common.h"

IP_MANIFEST({
    "id": "diaryx.words",
    "name": "Word count",
    "version": "1.0.0",
    "description": "Counts the words of the journal and remembers how the total grows.",
    "protocol_version": 1,
    "min_app_version": "1.4.0",
    "capabilities": ["custom_commands", "file_events"],
    "commands": ["count", "history", "seen", "bounce"],
    "cli": [{"name": "count", "about": "Count the words of every page"}],
    "requested_permissions": {
        "defaults": {
            "read_files": {"include": ["all"], "exclude": []},
            "plugin_storage": {"include": ["all"], "exclude": [], "quota_bytes": 65536},
            "execute_commands": {"include": ["diaryx.backlinks:bounce"], "exclude": []}
        },
        "reasons": {
            "read_files": "To count the words of every page.",
            "plugin_storage": "To remember earlier totals.",
            "execute_commands": "Only for the demonstration of the depth limit."
        }
    }
})

#define HISTORY_LIMIT 100 /* a total a day for three months; about 7 KB of storage */

static uint32_t words_in(ip_str text) {
    uint32_t words = 0;
    bool is_inside = false;
    for (uint32_t i = 0; i < text.len; i++) {
        bool is_space = ip_is_space(text.ptr[i]);
        words += !is_space && !is_inside;
        is_inside = !is_space;
    }
    return words;
}

/* Gives the page's memory back: a journal may be larger than a worker is allowed to be. */
static bool count_page(ip_str path, uint32_t *words, ip_str *error) {
    uintptr_t mark = ip_mark();
    ip_str page;
    if (!ip_read_file(path, &page)) {
        *error = page;
        return false;
    }
    *words = words_in(body_of(page));
    ip_release(mark);
    return true;
}

static ip_str load_history(void) { /* [{"at": time, "total": words}, ...], oldest first */
    ip_str stored;
    return ip_storage_get(ip_s("history"), &stored) ? stored : ip_s("[]");
}

static bool save_history(ip_str history, ip_str now, int64_t total, ip_str *error) {
    uint32_t length = 0;
    for (ip_items items = ip_each(history); ip_next(&items);) length++;
    uint32_t surplus = length >= HISTORY_LIMIT ? length - HISTORY_LIMIT + 1 : 0;
    ip_buffer b = {0};
    ip_put_open(&b, '[');
    for (ip_items items = ip_each(history); ip_next(&items);) {
        if (surplus) surplus--;
        else ip_put_raw(&b, items.value);
    }
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "at", now);
    ip_put_int_field(&b, "total", total);
    ip_put_close(&b, '}');
    ip_put_close(&b, ']');
    return ip_storage_set(ip_s("history"), ip_text(&b), error);
}

static void put_difference(ip_buffer *out, ip_str history, int64_t total) {
    ip_str newest = {0};
    for (ip_items items = ip_each(history); ip_next(&items);) newest = items.value;
    ip_str previous = ip_get(newest, "total");
    ip_put_raw_field(out, "previous", previous); /* null the first time */
    ip_put_key(out, "difference");
    if (previous.len) ip_put_int(out, total - ip_to_int(previous, 0));
    else ip_put_raw(out, (ip_str){0});
}

static ip_reply count(ip_str params) {
    (void)params;
    ip_str paths, error;
    if (!ip_workspace_files(&paths)) return host_said_no(paths);
    ip_buffer files = {0}, skipped = {0}, out = {0};
    int64_t total = 0;
    ip_put_open(&files, '[');
    ip_put_open(&skipped, '[');
    for (ip_items items = ip_each(paths); ip_next(&items);) {
        ip_str path = ip_decode_text(items.value);
        uint32_t words;
        if (!ip_ends_with(path, ip_s(".md"))) continue;
        if (!count_page(path, &words, &error)) {
            put_refused_file(&skipped, path, error);
            continue;
        }
        total += words;
        ip_put_open(&files, '{');
        ip_put_text_field(&files, "path", path);
        ip_put_int_field(&files, "words", words);
        ip_put_close(&files, '}');
    }
    ip_put_close(&files, ']');
    ip_put_close(&skipped, ']');

    ip_str history = load_history();
    ip_put_open(&out, '{');
    ip_put_int_field(&out, "total", total);
    put_difference(&out, history, total);
    ip_put_raw_field(&out, "files", ip_text(&files));
    ip_put_raw_field(&out, "skipped", ip_text(&skipped));
    if (!save_history(history, ip_now(), total, &error)) ip_put_text_field(&out, "history_error", error);
    ip_put_close(&out, '}');
    return ip_ok(ip_text(&out));
}

static ip_reply history(ip_str params) {
    (void)params;
    return ip_ok(load_history());
}

/* Memory of the instance, not of the plugin: a restarted worker begins at zero, and the demo shows it. */
static uint32_t saves;
static uint8_t last_path[256];
static uint32_t last_path_length;

IP_EXPORT(on_event) {
    ip_str event = ip_input();
    if (!ip_equal(ip_get_text(event, "event_type"), ip_s("file_saved"))) return 0;
    ip_str path = ip_slice(ip_get_text(ip_get(event, "payload"), "path"), 0, sizeof last_path);
    memcpy(last_path, path.ptr, path.len);
    last_path_length = path.len;
    saves++;
    return 0;
}

static ip_reply seen(ip_str params) {
    (void)params;
    ip_buffer out = {0};
    ip_put_open(&out, '{');
    ip_put_int_field(&out, "file_saved", saves);
    ip_put_text_field(&out, "last_path", (ip_str){last_path, last_path_length});
    ip_put_close(&out, '}');
    return ip_ok(ip_text(&out));
}

IP_COMMANDS({"count", count}, {"history", history}, {"seen", seen}, {"bounce", bounce})
