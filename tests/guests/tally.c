/* test.tally: counts calls and events in its storage, or one of the ways to get that wrong (tests/chaos finds them).
 *
 *   KEEPS_IN_MEMORY  counts in memory, as if that were for good: the count is lost with the worker
 *   REDOES           writes down what it is about to do, does it, does not cross it out, and does it again when it starts
 *   FORGETS_EVENTS   keeps events in memory until the next command writes them
 */
#include "isoplug.h"

IP_MANIFEST({
    "id": "test.tally", "name": "Tally", "version": "1.0.0", "description": "Counts.",
    "capabilities": ["custom_commands", "file_events"], "commands": ["add", "total", "events"]
})

static int64_t load(const char *key) {
    ip_str stored;
    return ip_storage_get(ip_s(key), &stored) ? ip_to_int(stored, 0) : 0;
}

static bool save(const char *key, int64_t number, ip_str *error) {
    return ip_storage_set(ip_s(key), ip_decimal(number), error);
}

#ifdef KEEPS_IN_MEMORY
static int64_t added;
static int64_t load_total(void) { return added; }
static bool save_total(int64_t number, ip_str *error) {
    (void)error;
    added = number;
    return true;
}
#else
static int64_t load_total(void) { return load("total"); }
static bool save_total(int64_t number, ip_str *error) { return save("total", number, error); }
#endif

static int64_t pending; /* events that are not written yet */

static bool write_pending(ip_str *error) {
    if (pending && !save("events", load("events") + pending, error)) return false;
    pending = 0;
    return true;
}

static ip_reply add(ip_str params) {
    (void)params;
    ip_str error;
    int64_t total = load_total() + 1;
#ifdef REDOES
    if (!save("intent", 1, &error)) return ip_refuse(NULL, error);
#endif
    if (!save_total(total, &error)) return ip_refuse(NULL, error);
    return ip_ok(ip_decimal(total));
}

static ip_reply total(ip_str params) {
    (void)params;
    return ip_ok(ip_decimal(load_total()));
}

static ip_reply events(ip_str params) {
    (void)params;
    ip_str error;
    if (!write_pending(&error)) return ip_refuse(NULL, error);
    return ip_ok(ip_decimal(load("events")));
}

IP_COMMANDS({"add", add}, {"total", total}, {"events", events})

IP_EXPORT(init) {
#ifdef REDOES
    ip_str error;
    if (load("intent")) save_total(load_total() + 1, &error);
#endif
    return 0;
}

IP_EXPORT(on_event) {
    pending++;
#ifdef FORGETS_EVENTS
    return 0;
#else
    ip_str error;
    if (write_pending(&error)) return 0;
    pending = 0; /* the event failed, and whoever sent it may send it again */
    return ip_fail(error);
#endif
}
