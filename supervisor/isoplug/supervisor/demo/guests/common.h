/* What the demo plugins share. Each includes it after isoplug.h and defines SELF, its own id, before. */

/* The file functions of the protocol answer a refusal with a sentence and no code. The sentence names the permission,
 * which is the only mark by which a guest can tell "you may not" from "there is no such file". */
static bool is_denial(ip_str message) {
    const char *permissions[] = {"read_files", "edit_files", "create_files", "execute_commands", "plugin_storage"};
    for (uint32_t i = 0; i < sizeof permissions / sizeof *permissions; i++)
        if (ip_find(message, ip_s(permissions[i]), 0) != IP_NONE) return true;
    return false;
}

/* Pass the host's sentence on, with the error code that its reader needs. */
static ip_reply host_said_no(ip_str message) {
    return ip_refuse(is_denial(message) ? "permission_denied" : "host_error", message);
}

/* The Markdown below the front matter; all of it when there is none. */
static ip_str body_of(ip_str page) {
    if (!ip_starts_with(page, ip_s("---\n"))) return page;
    uint32_t end = ip_find(page, ip_s("\n---"), 3);
    return end == IP_NONE ? page : ip_slice(page, end + 4, page.len);
}

/* The text between the `---` lines; empty when there are none. */
static ip_str front_matter_of(ip_str page) {
    ip_str body = body_of(page);
    return body.len == page.len ? (ip_str){0} : ip_slice(page, 3, page.len - body.len - 3);
}

static void put_refused_file(ip_buffer *list, ip_str path, ip_str reason) { /* {"path": ..., "reason": ...} */
    ip_put_raw(list, ip_object2("path", path, "reason", reason));
}

#ifdef WITH_BOUNCE
/* bounce {"to": other, "n": k}: ask the other plugin to bounce back, until somebody refuses; then tell how far it went.
 * Two plugins with this command recurse through each other as deep as the host lets them. */
static ip_reply bounce(ip_str params) {
    ip_str other = ip_get_text(params, "to"), answer;
    int64_t n = ip_get_int(params, "n", 0);
    ip_buffer next = {0};
    ip_put_open(&next, '{');
    ip_put_text_field(&next, "to", ip_s(SELF));
    ip_put_int_field(&next, "n", n + 1);
    ip_put_close(&next, '}');
    if (ip_command(other, ip_s("bounce"), ip_text(&next), &answer)) return ip_ok(answer);
    ip_buffer out = {0};
    ip_put_open(&out, '{');
    ip_put_int_field(&out, "reached", n);
    ip_put_text_field(&out, "stopped_by", answer);
    ip_put_close(&out, '}');
    return ip_ok(ip_text(&out));
}
#endif
