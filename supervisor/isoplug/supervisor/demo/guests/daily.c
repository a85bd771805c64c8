/* diaryx.daily: one page per day. `today` creates the page and adds timed notes to it, `open` reads any page. */
#include "isoplug.h"
#include "common.h"

IP_MANIFEST({
    "id": "diaryx.daily",
    "name": "Daily entries",
    "version": "1.0.0",
    "description": "Creates today's journal entry and collects timed notes in it.",
    "protocol_version": 1,
    "min_app_version": "1.4.0",
    "capabilities": ["custom_commands"],
    "commands": ["today", "open"],
    "cli": [{"name": "today", "about": "Create today's entry, or add a note to it"}],
    "requested_permissions": {
        "defaults": {
            "read_files": {"include": ["all"], "exclude": []},
            "create_files": {"include": ["[Journal](/journal/journal.md)"], "exclude": []},
            "edit_files": {"include": ["[Journal](/journal/journal.md)"], "exclude": []}
        },
        "reasons": {
            "read_files": "To open the pages you ask for, and to keep what today's entry already says.",
            "create_files": "To create one entry per day below journal/.",
            "edit_files": "To add notes to today's entry and to list it in the journal's index."
        }
    }
})

#define INDEX "journal/journal.md"

static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};
static const char *const weekdays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};

typedef struct {
    ip_str text; /* 2025-03-09T08:30:00+01:00 */
    uint32_t year, month, day;
} local_time;

/* The shape is checked once here, so that slices of it can be used as parts of a path. */
static bool parse_time(ip_str text, local_time *now) {
    const char *shape = "dddd-dd-ddTdd:dd:dd";
    if (text.len < 19) return false;
    for (uint32_t i = 0; i < 19; i++) {
        bool is_digit = text.ptr[i] >= '0' && text.ptr[i] <= '9';
        if (shape[i] == 'd' ? !is_digit : text.ptr[i] != shape[i]) return false;
    }
    const uint8_t *d = text.ptr;
    now->text = text;
    now->year = (uint32_t)((d[0] - '0') * 1000 + (d[1] - '0') * 100 + (d[2] - '0') * 10 + d[3] - '0');
    now->month = (uint32_t)((d[5] - '0') * 10 + d[6] - '0');
    now->day = (uint32_t)((d[8] - '0') * 10 + d[9] - '0');
    return now->year >= 1 && now->month >= 1 && now->month <= 12 && now->day >= 1 && now->day <= 31;
}

static const char *weekday_of(const local_time *now) { /* Sakamoto's method; 0 is Sunday */
    const uint32_t offsets[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
    uint32_t year = now->year - (now->month < 3);
    return weekdays[(year + year / 4 - year / 100 + year / 400 + offsets[now->month - 1] + now->day) % 7];
}

static ip_str date_of(const local_time *now) { return ip_slice(now->text, 0, 10); }

static ip_str path_of(const local_time *now) {
    return ip_concat(ip_s("journal/"), ip_slice(now->text, 0, 4), ip_s("/"), ip_slice(now->text, 5, 7), ip_s("/"),
                     date_of(now), ip_s(".md"));
}

static ip_str empty_page(const local_time *now) {
    ip_buffer b = {0};
    ip_add_s(&b, "---\ntitle: \"");
    ip_add(&b, date_of(now));
    ip_add_s(&b, "\"\npart_of: \"[Journal](/" INDEX ")\"\ncreated: \"");
    ip_add(&b, now->text);
    ip_add_s(&b, "\"\n---\n\n# ");
    ip_add_s(&b, weekday_of(now));
    ip_add_s(&b, ", ");
    ip_add_int(&b, now->day);
    ip_add_s(&b, " ");
    ip_add_s(&b, months[now->month - 1]);
    ip_add_s(&b, " ");
    ip_add_int(&b, now->year);
    ip_add_s(&b, "\n\n");
    return ip_text(&b);
}

static ip_str with_note(ip_str page, const local_time *now, ip_str note) {
    ip_buffer b = {0};
    ip_add(&b, page);
    if (!ip_ends_with(page, ip_s("\n"))) ip_add_byte(&b, '\n');
    ip_add_s(&b, "- ");
    ip_add(&b, ip_slice(now->text, 11, 16));
    ip_add_byte(&b, ' ');
    for (uint32_t i = 0; i < note.len; i++) /* a line break would end the bullet */
        ip_add_byte(&b, note.ptr[i] < ' ' ? ' ' : note.ptr[i]);
    ip_add_byte(&b, '\n');
    return ip_text(&b);
}

/* A page that no index lists is not part of a Diaryx workspace: the new entry goes to the top of the journal's list. */
static bool list_in_index(const local_time *now, ip_str path, ip_str *error) {
    const char *list = "\ncontents:\n";
    ip_str index;
    if (!ip_read_file(ip_s(INDEX), &index)) {
        *error = index;
        return false;
    }
    if (ip_find(index, ip_concat(ip_s("(/"), path, ip_s(")")), 0) != IP_NONE) return true;
    uint32_t at = ip_find(front_matter_of(index), ip_s(list), 0);
    if (at == IP_NONE) {
        *error = ip_s(INDEX " has no list of contents in its front matter");
        return false;
    }
    at += 3 + ip_s(list).len; /* front_matter_of leaves out the first three dashes */
    ip_str line = ip_concat(ip_s("  - \"["), date_of(now), ip_s("](/"), path, ip_s(")\"\n"));
    return ip_write_file(ip_s(INDEX), ip_concat(ip_slice(index, 0, at), line, ip_slice(index, at, index.len)), error);
}

static ip_reply today(ip_str params) {
    local_time now;
    if (!parse_time(ip_now(), &now)) return ip_refuse("host_error", ip_s("the host's clock is not RFC 3339"));
    ip_str path = path_of(&now), note = ip_trim(ip_get_text(params, "text")), page, error;
    bool is_new = !ip_file_exists(path);
    if (is_new) page = empty_page(&now);
    else if (!ip_read_file(path, &page)) return host_said_no(page);
    if (note.len) page = with_note(page, &now, note);
    if ((is_new || note.len) && !ip_write_file(path, page, &error)) return host_said_no(error);

    ip_buffer out = {0};
    ip_put_open(&out, '{');
    ip_put_text_field(&out, "path", path);
    ip_put_bool_field(&out, "created", is_new);
    if (is_new && !list_in_index(&now, path, &error)) {
        ip_log("warn", ip_concat(ip_s("today's entry is not in " INDEX ": "), error));
        ip_put_text_field(&out, "index_error", error);
    }
    ip_put_close(&out, '}');
    return ip_ok(ip_text(&out));
}

static ip_reply open_page(ip_str params) {
    ip_str path = ip_get_text(params, "path"), page;
    if (!path.len) return ip_refuse("bad_params", ip_s("open needs {\"path\": ...}"));
    if (!ip_read_file(path, &page)) return host_said_no(page);
    ip_buffer out = {0};
    ip_put_text(&out, page);
    return ip_ok(ip_text(&out));
}

IP_COMMANDS({"today", today}, {"open", open_page})
