/* Says each time that it is another plugin: its id ends in the milliseconds since the epoch. */
#include "isoplug.h"

IP_EXPORT(manifest) {
    ip_buffer b = {0}, id = {0};
    ip_add_s(&id, "test.fickle");
    ip_add(&id, ip_decimal(ip_timestamp()));
    ip_put_open(&b, '{');
    ip_put_text_field(&b, "id", ip_text(&id));
    ip_put_text_field(&b, "name", ip_s("Fickle"));
    ip_put_text_field(&b, "version", ip_s("1.0.0"));
    ip_put_text_field(&b, "description", ip_s("Test guest"));
    ip_put_raw_field(&b, "capabilities", ip_s("[]"));
    ip_put_close(&b, '}');
    return ip_output(ip_text(&b));
}
