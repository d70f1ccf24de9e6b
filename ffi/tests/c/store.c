/* Every store function and every fault it can meet. usage: store MASTER SEGMENT_ID DEAD_MASTER */
#include "check.h"

#define KEY(text) (text), strlen(text)

static unsigned char value[100000];

static void refuses_wrong_arguments(perilune_store_t *store) {
    perilune_buffer_t buffer = {0};
    size_t length = 0;
    uint64_t size = 0;
    bool flag = false;
    char longest[5000] = {0};

    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_create(NULL, NULL));
    perilune_store_t *never = NULL;
    perilune_store_config_t nobody = {.masters = " , "};
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_create(&nobody, &never));
    perilune_store_config_t garbled = {.masters = "\xff\xfe"};
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_create(&garbled, &never));
    CHECK(never == NULL);

    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, NULL, 1, value, 1, NULL, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, "", 0, value, 1, NULL, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, longest, sizeof longest, value, 1, NULL, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, KEY("k"), NULL, 1, NULL, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, KEY("k"), value, 0, NULL, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, KEY("k"), value, (size_t)-1, NULL, NULL));
    perilune_put_config_t pinned = {.pin = 3};
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, KEY("k"), value, 1, &pinned, NULL));
    perilune_put_config_t nameless = {.preferred_segments_count = 1};
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, KEY("k"), value, 1, &nameless, NULL));
    const char *null_name = NULL;
    nameless.preferred_segments = &null_name;
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(store, KEY("k"), value, 1, &nameless, NULL));
    perilune_put_config_t copies = {.replicas = 9};
    CHECK(perilune_store_put(store, KEY("k"), value, 1, &copies, NULL) < 0);
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get(store, KEY("k"), NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get(store, NULL, 1, &buffer));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_into(store, KEY("k"), NULL, 1, &length));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_into(store, KEY("k"), value, 1, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_exists(store, KEY("k"), NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_size(store, KEY("k"), NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_remove(store, NULL, 0, false));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_remove_matching(store, NULL, false, &size));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_remove_matching(store, "(", false, &size));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_register(store, NULL, 1));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_register(store, value, 0));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_unregister(store, value));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put_batch(store, NULL, 1, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_batch_into(store, NULL, 1));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_exists_batch(store, NULL, 1, &flag));
    perilune_key_t one = {KEY("k")};
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_exists_batch(store, &one, 1, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_match_prefix(store, &one, 1, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_describe(store, NULL, &buffer));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_describe(store, "no uuid", &buffer));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_describe(store, "00000000-0000-0000-0000-000000000001", NULL));
    EXPECT(PERILUNE_SEGMENT_NOT_FOUND, perilune_store_describe(store, "00000000-0000-0000-0000-000000000001", &buffer));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_close(NULL));
}

/* One by one, so that none is forgotten: a handle that is NULL, closed, or was never one. */
static void refuses_dead_handles(perilune_store_t *dead) {
    perilune_buffer_t buffer = {0};
    perilune_put_item_t put = {0};
    perilune_get_item_t get = {0};
    perilune_key_t key = {KEY("k")};
    size_t length = 0;
    uint64_t number = 0;
    bool flag = false;
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_health(dead));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put(dead, KEY("k"), value, 1, NULL, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get(dead, KEY("k"), &buffer));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_into(dead, KEY("k"), value, 1, &length));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_exists(dead, KEY("k"), &flag));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_size(dead, KEY("k"), &number));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_remove(dead, KEY("k"), false));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_remove_matching(dead, "", false, &number));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_register(dead, value, 1));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_unregister(dead, value));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put_batch(dead, &put, 1, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_batch_into(dead, &get, 1));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_exists_batch(dead, &key, 1, &flag));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_match_prefix(dead, &key, 1, &number));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_describe(dead, "x", &buffer));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_close(&dead));
}

static void one_by_one(perilune_store_t *store) {
    perilune_buffer_t buffer = {0};
    unsigned char into[sizeof value];
    size_t length = 0;
    uint64_t size = 0;
    bool flag = true;

    OK(perilune_store_put(store, KEY("one"), value, sizeof value, NULL, &flag));
    CHECK(!flag);
    OK(perilune_store_put(store, KEY("one"), "other", 5, NULL, &flag));
    CHECK(flag);
    OK(perilune_store_size(store, KEY("one"), &size));
    CHECK(size == sizeof value);
    OK(perilune_store_get(store, KEY("one"), &buffer));
    CHECK(buffer.length == sizeof value && memcmp(buffer.data, value, sizeof value) == 0);
    perilune_buffer_free(&buffer);
    perilune_buffer_free(&buffer);
    perilune_buffer_free(NULL);

    OK(perilune_store_register(store, into, sizeof into));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_register(store, into, sizeof into));
    OK(perilune_store_get_into(store, KEY("one"), into, sizeof into, &length));
    CHECK(length == sizeof value && memcmp(into, value, sizeof value) == 0);
    OK(perilune_store_unregister(store, into));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_into(store, KEY("one"), into, sizeof into - 1, &length));

    perilune_put_config_t replace = {.upsert = true, .pin = PERILUNE_PIN_SOFT};
    OK(perilune_store_put(store, KEY("one"), "newer", 5, &replace, &flag));
    CHECK(!flag);
    OK(perilune_store_get(store, KEY("one"), &buffer));
    CHECK(buffer.length == 5 && memcmp(buffer.data, "newer", 5) == 0);
    perilune_buffer_free(&buffer);

    OK(perilune_store_exists(store, KEY("one"), &flag));
    CHECK(flag);
    EXPECT(PERILUNE_OBJECT_HAS_LEASE, perilune_store_remove(store, KEY("one"), false));
    OK(perilune_store_remove(store, KEY("one"), true));
    EXPECT(PERILUNE_OBJECT_NOT_FOUND, perilune_store_remove(store, KEY("one"), false));
    OK(perilune_store_exists(store, KEY("one"), &flag));
    CHECK(!flag);
    EXPECT(PERILUNE_OBJECT_NOT_FOUND, perilune_store_get(store, KEY("one"), &buffer));
    CHECK(buffer.data == NULL);
    EXPECT(PERILUNE_OBJECT_NOT_FOUND, perilune_store_get_into(store, KEY("one"), into, sizeof into, &length));
    EXPECT(PERILUNE_OBJECT_NOT_FOUND, perilune_store_size(store, KEY("one"), &size));

    /* Larger than any segment. */
    size_t huge = (size_t)64 << 20;
    void *room = calloc(1, huge);
    CHECK(room != NULL);
    EXPECT(PERILUNE_NO_AVAILABLE_HANDLE, perilune_store_put(store, KEY("huge"), room, huge, NULL, NULL));
    free(room);
}

static void many_at_once(perilune_store_t *store) {
    enum { COUNT = 16 };
    char names[COUNT][16];
    perilune_put_item_t puts[COUNT] = {0};
    perilune_get_item_t gets[COUNT] = {0};
    perilune_key_t keys[COUNT + 1] = {0};
    bool exist[COUNT + 1] = {0};
    static unsigned char into[COUNT][5000];
    uint64_t number = 0;

    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "many/%d", i);
        keys[i] = (perilune_key_t){KEY(names[i])};
        puts[i] = (perilune_put_item_t){.key = keys[i], .value = value + i, .value_length = 5000 - (size_t)i, .status = 99, .existed = 99};
        gets[i] = (perilune_get_item_t){.key = keys[i], .into = into[i], .capacity = sizeof into[i], .status = 99};
    }
    OK(perilune_store_put_batch(store, puts, COUNT, NULL));
    OK(perilune_store_get_batch_into(store, gets, COUNT));
    for (int i = 0; i < COUNT; i++) {
        CHECK(puts[i].status == PERILUNE_OK && !puts[i].existed && gets[i].status == PERILUNE_OK);
        CHECK(gets[i].length == puts[i].value_length && memcmp(into[i], value + i, gets[i].length) == 0);
    }
    OK(perilune_store_put_batch(store, puts, COUNT, NULL));
    CHECK(puts[3].existed == 1);

    keys[COUNT] = (perilune_key_t){KEY("many/none")};
    OK(perilune_store_exists_batch(store, keys, COUNT + 1, exist));
    CHECK(exist[0] && exist[COUNT - 1] && !exist[COUNT]);
    OK(perilune_store_match_prefix(store, keys, COUNT + 1, &number));
    CHECK(number == COUNT);

    /* One bad item does not spoil the others, and says which it is. */
    gets[1].capacity = 1;
    gets[2].key = keys[COUNT];
    gets[4].key.bytes = NULL;
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_batch_into(store, gets, COUNT));
    CHECK(gets[0].status == PERILUNE_OK && gets[0].length == 5000);
    CHECK(gets[1].status == PERILUNE_INVALID_PARAMS && gets[1].length == 0);
    CHECK(gets[2].status == PERILUNE_OBJECT_NOT_FOUND);
    CHECK(gets[4].status == PERILUNE_INVALID_PARAMS && gets[5].status == PERILUNE_OK);
    puts[0].value = NULL;
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_put_batch(store, puts, 2, NULL));
    CHECK(puts[0].status == PERILUNE_INVALID_PARAMS && puts[1].status == PERILUNE_OK);

    gets[1].into = into[0];
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_store_get_batch_into(store, gets, 2));
    OK(perilune_store_put_batch(store, NULL, 0, NULL));
    OK(perilune_store_get_batch_into(store, NULL, 0));

    OK(perilune_store_remove_matching(store, "^many/1[0-9]$", true, &number));
    CHECK(number == 6);
    OK(perilune_store_remove_matching(store, "^many/", true, NULL));
    OK(perilune_store_exists_batch(store, keys, COUNT, exist));
    CHECK(!exist[0] && !exist[COUNT - 1]);
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    for (size_t i = 0; i < sizeof value; i++) value[i] = (unsigned char)(i * 31 + i / 251);
    CHECK(strcmp(perilune_last_error(), "") == 0);
    CHECK(strlen(perilune_version()) > 0);
    CHECK(strcmp(perilune_fault_name(PERILUNE_OBJECT_NOT_FOUND), "OBJECT_NOT_FOUND") == 0);
    CHECK(strcmp(perilune_fault_name(PERILUNE_OK), "OK") == 0);
    CHECK(strcmp(perilune_fault_name(-4242), "UNKNOWN") == 0);

    perilune_store_t *store = NULL;
    perilune_store_config_t dead = {.masters = argv[3], .deadline_ms = 300};
    perilune_status_t status = perilune_store_create(&dead, &store);
    CHECK((status == PERILUNE_RPC_FAIL || status == PERILUNE_RPC_TIMEOUT) && store == NULL);
    CHECK(strstr(perilune_last_error(), argv[3]) != NULL);

    perilune_store_config_t config = {.masters = argv[1], .agent = "a C program"};
    OK(perilune_store_create(&config, &store));
    CHECK(store != NULL);
    OK(perilune_store_health(store));
    refuses_wrong_arguments(store);
    one_by_one(store);
    many_at_once(store);

    /* The bytes of a segment of the store, read by an engine of our own, which the second store shares. */
    perilune_engine_t *engine = NULL;
    perilune_segment_t *segment = NULL;
    perilune_buffer_t descriptor = {0};
    uint64_t size = 0;
    unsigned char bytes[4096];
    OK(perilune_engine_create(NULL, &engine));
    OK(perilune_store_describe(store, argv[2], &descriptor));
    OK(perilune_engine_open(engine, descriptor.data, descriptor.length, &segment));
    OK(perilune_segment_size(segment, &size));
    CHECK(size == (uint64_t)32 << 20);
    perilune_transfer_t read = {PERILUNE_READ, segment, 0, bytes, sizeof bytes};
    OK(perilune_engine_transfer(engine, &read, 1, 0, NULL));
    OK(perilune_segment_close(&segment));
    perilune_buffer_free(&descriptor);
    perilune_store_t *second = NULL;
    config.engine = engine;
    OK(perilune_store_create(&config, &second));
    OK(perilune_engine_close(&engine));
    OK(perilune_store_put(second, KEY("second"), value, sizeof value, NULL, NULL));
    OK(perilune_store_get(store, KEY("second"), &descriptor));
    CHECK(descriptor.length == sizeof value && memcmp(descriptor.data, value, sizeof value) == 0);
    perilune_buffer_free(&descriptor);
    OK(perilune_store_close(&second));

    perilune_store_t *stale = store;
    OK(perilune_store_close(&store));
    CHECK(store == NULL);
    refuses_dead_handles(NULL);
    refuses_dead_handles(stale);
    refuses_dead_handles((perilune_store_t *)(void *)value);
    puts("store: all as promised");
    return 0;
}
