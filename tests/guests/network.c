/* One command for each wrapper of isoplug.h that reaches beyond the machine; tests/supervisor/test_sdk.py calls them. */
#include "isoplug.h"

IP_MANIFEST({
    "id": "test.network", "name": "Network", "version": "1.0.0", "description": "Asks servers.",
    "capabilities": ["custom_commands"],
    "commands": ["get", "post", "proxy", "offered", "secret", "socket", "namespace"]
})

static ip_reply reply_of(bool is_answered, const ip_http_reply *reply) {
    if (!is_answered) return ip_refuse("no_answer", reply->body);
    ip_buffer b = {0};
    ip_put_open(&b, '{');
    ip_put_int_field(&b, "status", reply->status);
    ip_put_raw_field(&b, "headers", reply->headers);
    ip_put_text_field(&b, "body_base64", ip_to_base64(reply->body));
    ip_put_close(&b, '}');
    return ip_ok(ip_text(&b));
}

static ip_reply quoted(ip_str text) {
    ip_buffer b = {0};
    ip_put_text(&b, text);
    return ip_ok(ip_text(&b));
}

static ip_reply get(ip_str params) {
    ip_http_reply reply;
    return reply_of(ip_http_get(ip_get_text(params, "url"), &reply), &reply);
}

static ip_reply post(ip_str params) { /* bytes that are not text */
    ip_http_reply reply;
    return reply_of(ip_http_post(ip_get_text(params, "url"), "application/x-test", ip_s("\xff\x01"), &reply), &reply);
}

static ip_reply proxy(ip_str params) {
    ip_http_reply reply;
    return reply_of(ip_proxy(ip_s("mail"), ip_get_text(params, "path"), ip_s("{\"a\":1}"), &reply), &reply);
}

static ip_reply offered(ip_str params) {
    ip_str bytes;
    (void)params;
    return ip_request_file(ip_s("photo"), &bytes) ? quoted(ip_to_base64(bytes)) : ip_refuse("absent", ip_s("no photo"));
}

static ip_reply secret(ip_str params) { /* set, read back, deleted, read again */
    ip_str value, error;
    if (!ip_secret_set(ip_s("token"), ip_get_text(params, "value"), &error)) return ip_refuse("set", error);
    if (!ip_secret_get(ip_s("token"), &value)) return ip_refuse("get", ip_s("it is not there"));
    if (!ip_secret_delete(ip_s("token"), &error)) return ip_refuse("delete", error);
    if (ip_secret_get(ip_s("token"), &error)) return ip_refuse("get", ip_s("it is still there"));
    return quoted(value);
}

static ip_reply socket(ip_str params) {
    ip_str url = ip_get_text(params, "url"), error;
    if (!ip_ws_connect(url, ip_s("journal"), ip_s("s3cret"), &error)) return ip_refuse("connect", error);
    if (!ip_ws_send_text(ip_s("h\xc3\xa9llo"), &error)) return ip_refuse("send_text", error);
    if (!ip_ws_send_binary(ip_s("\xff\x01"), &error)) return ip_refuse("send_binary", error);
    if (ip_get_bool(params, "stay")) return ip_ok((ip_str){0});
    return ip_ws_disconnect(&error) ? ip_ok((ip_str){0}) : ip_refuse("disconnect", error);
}

static ip_reply namespace(ip_str params) { /* an object there and back; the listing is the answer */
    ip_str id, error, bytes = ip_s("\xff\x01"), found;
    (void)params;
    if (!ip_namespace_create(ip_s("{\"title\":\"T\"}"), &id)) return ip_refuse("create", id);
    if (!ip_namespace_put(id, ip_s("a/b"), "image/x", (ip_str){0}, bytes, &error)) return ip_refuse("put", error);
    if (!ip_namespace_get(id, ip_s("a/b"), &found)) return ip_refuse("get", found);
    if (!ip_equal(found, bytes)) return ip_refuse("get", ip_s("other bytes came back"));
    if (ip_namespace_get(id, ip_s("absent"), &error)) return ip_refuse("get", ip_s("what was never put"));
    return ip_namespace_list(id, ip_s("a/"), &found) ? ip_ok(found) : ip_refuse("list", found);
}

IP_COMMANDS({"get", get}, {"post", post}, {"proxy", proxy}, {"offered", offered}, {"secret", secret},
            {"socket", socket}, {"namespace", namespace})
