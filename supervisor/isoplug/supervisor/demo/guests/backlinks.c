/* diaryx.backlinks: which pages link to which. Writes the answer as a page; also shows plugins calling plugins. */
#include "isoplug.h"

#define SELF "diaryx.backlinks"
#define WITH_BOUNCE
#include "common.h"

IP_MANIFEST({
    "id": "diaryx.backlinks",
    "name": "Back-links",
    "version": "1.0.0",
    "description": "Finds the links between pages and writes a page that lists them backwards.",
    "protocol_version": 1,
    "min_app_version": "1.4.0",
    "capabilities": ["custom_commands"],
    "commands": ["table", "relay", "bounce"],
    "cli": [{"name": "table", "about": "Write Back-links.md"}],
    "requested_permissions": {
        "defaults": {
            "read_files": {"include": ["all"], "exclude": []},
            "create_files": {"include": ["Back-links.md"], "exclude": []},
            "edit_files": {"include": ["Back-links.md"], "exclude": []},
            "execute_commands": {"include": ["diaryx.words", "diaryx.daily:open"], "exclude": []}
        },
        "reasons": {
            "read_files": "To find the links in every page.",
            "create_files": "To write Back-links.md.",
            "edit_files": "To bring Back-links.md up to date.",
            "execute_commands": "To pass questions on to the word count and to open pages."
        }
    }
})

#define TABLE_PATH "Back-links.md"

typedef struct {
    ip_str path, title;
} page_entry;

typedef struct {
    uint32_t source, target; /* indices into pages */
} edge;

typedef struct {
    page_entry *pages;
    uint32_t page_count;
    ip_buffer edges; /* of struct edge, grouped by source, without repetitions */
    ip_buffer unresolved, skipped; /* JSON arrays */
} graph;

static const edge *edges_of(const graph *g) { return (const edge *)(const void *)g->edges.ptr; }
static uint32_t edge_count(const graph *g) { return g->edges.len / (uint32_t)sizeof(edge); }

static uint32_t find_page(const graph *g, ip_str path) {
    for (uint32_t i = 0; i < g->page_count; i++)
        if (ip_equal(g->pages[i].path, path)) return i;
    return IP_NONE;
}

static void add_edge(graph *g, uint32_t source, uint32_t target) {
    for (uint32_t i = edge_count(g); i > 0 && edges_of(g)[i - 1].source == source; i--)
        if (edges_of(g)[i - 1].target == target) return;
    edge added = {source, target};
    ip_add(&g->edges, (ip_str){(const uint8_t *)&added, sizeof added});
}

/* ---- paths ---- */

static ip_str percent_decoded(ip_str text) {
    ip_buffer b = {0};
    for (uint32_t at = 0; at < text.len; at++) {
        uint32_t code = IP_NONE;
        if (text.ptr[at] == '%' && text.len - at > 2) { /* borrow the reader of \uXXXX */
            uint8_t digits[4] = {'0', '0', text.ptr[at + 1], text.ptr[at + 2]};
            code = ip_hex4((ip_str){digits, 4}, 0);
        }
        ip_add_byte(&b, code == IP_NONE ? text.ptr[at] : (uint8_t)code);
        if (code != IP_NONE) at += 2;
    }
    return ip_text(&b);
}

static uint32_t last_slash(ip_str path) {
    for (uint32_t at = path.len; at > 0; at--)
        if (path.ptr[at - 1] == '/') return at - 1;
    return IP_NONE;
}

/* Without `.`, `..` and doubled slashes; false when `..` leads out of the workspace. */
static bool normalize(ip_str path, ip_str *out) {
    ip_buffer b = {0};
    for (uint32_t at = 0; at < path.len;) {
        uint32_t end = ip_find(path, ip_s("/"), at);
        if (end == IP_NONE) end = path.len;
        ip_str part = ip_slice(path, at, end);
        at = end + 1;
        if (!part.len || ip_equal(part, ip_s("."))) continue;
        if (ip_equal(part, ip_s(".."))) {
            if (!b.len) return false;
            uint32_t parent = last_slash(ip_text(&b));
            b.len = parent == IP_NONE ? 0 : parent;
            continue;
        }
        if (b.len) ip_add_byte(&b, '/');
        ip_add(&b, part);
    }
    *out = ip_text(&b);
    return true;
}

/* The page that a link means: relative to the page it stands in, or to the workspace when it begins with a slash. */
static bool resolve(ip_str source, ip_str link, ip_str *path) {
    uint32_t slash = last_slash(source);
    ip_str folder = slash == IP_NONE ? (ip_str){0} : ip_slice(source, 0, slash);
    link = percent_decoded(link);
    if (ip_starts_with(link, ip_s("/"))) folder.len = 0;
    return normalize(ip_concat(folder, ip_s("/"), link), path);
}

/* ---- Markdown ---- */

/* From what stands between the parentheses: without <>, "title" and #anchor; empty unless it is a Markdown file. */
static ip_str page_link(ip_str inside) {
    inside = ip_trim(inside);
    if (ip_starts_with(inside, ip_s("<"))) {
        uint32_t end = ip_find(inside, ip_s(">"), 0);
        inside = ip_slice(inside, 1, end); /* clamped when the bracket is missing */
    } else {
        inside = ip_slice(inside, 0, ip_find(inside, ip_s(" "), 0));
    }
    inside = ip_slice(inside, 0, ip_find(inside, ip_s("#"), 0));
    bool is_elsewhere = ip_find(inside, ip_s("://"), 0) != IP_NONE;
    return is_elsewhere || !ip_ends_with(inside, ip_s(".md")) ? (ip_str){0} : inside;
}

static void add_link(graph *g, uint32_t source, ip_str link) {
    ip_str path = link;
    bool is_inside = resolve(g->pages[source].path, link, &path);
    uint32_t target = is_inside ? find_page(g, path) : IP_NONE;
    if (target == IP_NONE) ip_put_raw(&g->unresolved, ip_object2("from", g->pages[source].path, "to", path));
    else if (target != source) add_edge(g, source, target);
}

static void scan_line(graph *g, uint32_t source, ip_str line) {
    for (uint32_t at = 0; (at = ip_find(line, ip_s("]("), at)) != IP_NONE;) {
        uint32_t end = ip_find(line, ip_s(")"), at += 2);
        if (end == IP_NONE) return;
        ip_str link = page_link(ip_slice(line, at, end));
        if (link.len) add_link(g, source, link);
        at = end;
    }
}

static void scan_body(graph *g, uint32_t source, ip_str body) {
    bool is_code = false; /* between ``` lines, where brackets mean nothing */
    for (uint32_t at = 0; at < body.len;) {
        uint32_t end = ip_find(body, ip_s("\n"), at);
        if (end == IP_NONE) end = body.len;
        ip_str line = ip_slice(body, at, end);
        bool is_fence = ip_starts_with(ip_trim(line), ip_s("```"));
        if (is_fence) is_code = !is_code;
        else if (!is_code) scan_line(g, source, line);
        at = end + 1;
    }
}

static ip_str title_of(ip_str page, ip_str path) {
    ip_str front = front_matter_of(page), key = ip_s("\ntitle:");
    uint32_t at = ip_find(front, key, 0);
    if (at == IP_NONE) return path;
    ip_str title = ip_trim(ip_slice(front, at + key.len, ip_find(front, ip_s("\n"), at + 1)));
    bool is_quoted = title.len > 1 && (title.ptr[0] == '"' || title.ptr[0] == '\'');
    return is_quoted ? ip_slice(title, 1, title.len - 1) : title;
}

/* ---- the graph ---- */

static void list_pages(graph *g, ip_str paths) {
    uint32_t count = 0;
    for (ip_items items = ip_each(paths); ip_next(&items);) count++;
    g->pages = ip_alloc(count * sizeof(page_entry));
    for (ip_items items = ip_each(paths); ip_next(&items);) {
        ip_str path = ip_decode_text(items.value);
        /* The table's own page links to everything, which says nothing. */
        if (!ip_ends_with(path, ip_s(".md")) || ip_equal(path, ip_s(TABLE_PATH))) continue;
        g->pages[g->page_count++] = (page_entry){path, path};
    }
}

static void read_pages(graph *g) {
    for (uint32_t i = 0; i < g->page_count; i++) {
        ip_str page;
        if (!ip_read_file(g->pages[i].path, &page)) {
            put_refused_file(&g->skipped, g->pages[i].path, page);
            continue;
        }
        g->pages[i].title = title_of(page, g->pages[i].path);
        scan_body(g, i, body_of(page));
    }
}

/* ---- the page and the answer ---- */

static void add_page_link(ip_buffer *b, const page_entry *page) { /* [Title](/path), safe inside a table cell */
    ip_add_byte(b, '[');
    for (uint32_t i = 0; i < page->title.len; i++) {
        uint8_t byte = page->title.ptr[i];
        if (byte == '|' || byte == '[' || byte == ']' || byte == '\\') ip_add_byte(b, '\\');
        ip_add_byte(b, byte);
    }
    ip_add_s(b, "](/");
    for (uint32_t i = 0; i < page->path.len; i++) {
        uint8_t byte = page->path.ptr[i];
        if (byte == ' ') ip_add_s(b, "%20");
        else if (byte == ')') ip_add_s(b, "%29");
        else if (byte == '|') ip_add_s(b, "%7C");
        else ip_add_byte(b, byte);
    }
    ip_add_byte(b, ')');
}

static uint32_t links_to(const graph *g, uint32_t target) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < edge_count(g); i++) count += edges_of(g)[i].target == target;
    return count;
}

static ip_str markdown_table(const graph *g) {
    ip_buffer b = {0};
    ip_add_s(&b, "---\ntitle: Back-links\npart_of: README.md\n---\n\n# Back-links\n\nWritten by `diaryx.backlinks`; "
                 "changes made here are lost.\n\n| page | linked from |\n| --- | --- |\n");
    for (uint32_t page = 0; page < g->page_count; page++) {
        const char *separator = " | ";
        if (!links_to(g, page)) continue;
        ip_add_s(&b, "| ");
        add_page_link(&b, &g->pages[page]);
        for (uint32_t i = 0; i < edge_count(g); i++) {
            if (edges_of(g)[i].target != page) continue;
            ip_add_s(&b, separator);
            add_page_link(&b, &g->pages[edges_of(g)[i].source]);
            separator = ", ";
        }
        ip_add_s(&b, " |\n");
    }
    return ip_text(&b);
}

static void put_pages(ip_buffer *out, const graph *g) {
    ip_put_open(out, '[');
    for (uint32_t page = 0; page < g->page_count; page++) {
        if (!links_to(g, page)) continue;
        ip_put_open(out, '{');
        ip_put_text_field(out, "path", g->pages[page].path);
        ip_put_text_field(out, "title", g->pages[page].title);
        ip_put_key(out, "linked_from");
        ip_put_open(out, '[');
        for (uint32_t i = 0; i < edge_count(g); i++)
            if (edges_of(g)[i].target == page) ip_put_text(out, g->pages[edges_of(g)[i].source].path);
        ip_put_close(out, ']');
        ip_put_close(out, '}');
    }
    ip_put_close(out, ']');
}

static ip_reply table(ip_str params) {
    (void)params;
    ip_str paths, error;
    if (!ip_workspace_files(&paths)) return host_said_no(paths);
    graph g = {0};
    ip_put_open(&g.unresolved, '[');
    ip_put_open(&g.skipped, '[');
    list_pages(&g, paths);
    read_pages(&g);
    ip_put_close(&g.unresolved, ']');
    ip_put_close(&g.skipped, ']');
    if (!ip_write_file(ip_s(TABLE_PATH), markdown_table(&g), &error)) return host_said_no(error);

    ip_buffer out = {0};
    ip_put_open(&out, '{');
    ip_put_text_field(&out, "written", ip_s(TABLE_PATH));
    ip_put_int_field(&out, "links", edge_count(&g));
    ip_put_key(&out, "pages");
    put_pages(&out, &g);
    ip_put_raw_field(&out, "unresolved", ip_text(&g.unresolved));
    ip_put_raw_field(&out, "skipped", ip_text(&g.skipped));
    ip_put_close(&out, '}');
    return ip_ok(ip_text(&out));
}

/* relay {"to", "command", "params"}: the other plugin's answer, or the reason why there is none, unchanged. */
static ip_reply relay(ip_str params) {
    ip_str answer, to = ip_get_text(params, "to"), command = ip_get_text(params, "command");
    if (!to.len || !command.len) return ip_refuse("bad_params", ip_s("relay needs {\"to\": ..., \"command\": ...}"));
    return ip_command(to, command, ip_get(params, "params"), &answer) ? ip_ok(answer) : host_said_no(answer);
}

IP_COMMANDS({"table", table}, {"relay", relay}, {"bounce", bounce})
