/* Every engine function and every fault it can meet. usage: engine SOCKET_PATH SHM_NAME (an object of 8192 bytes that begins with "kept") */
#include "check.h"

enum { SIZE = 1 << 20 };

static unsigned char local[SIZE];

static void moves_bytes(perilune_engine_t *server, perilune_engine_t *client) {
    void *base = NULL;
    perilune_buffer_t descriptor = {0};
    perilune_segment_t *segment = NULL;
    perilune_batch_t *batch = NULL;
    uint64_t size = 0;
    perilune_status_t statuses[3] = {99, 99, 99};

    OK(perilune_engine_lend(server, NULL, 0, SIZE, &base, &descriptor));
    OK(perilune_engine_open(client, descriptor.data, descriptor.length, &segment));
    OK(perilune_segment_size(segment, &size));
    CHECK(size == SIZE);

    /* Write the whole, read it back in two, in another order. */
    for (size_t i = 0; i < SIZE; i++) local[i] = (unsigned char)(i * 7 + i / 253);
    OK(perilune_engine_register(client, local, SIZE));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_register(client, local + 1, 1));
    perilune_transfer_t write = {PERILUNE_WRITE, segment, 0, local, SIZE};
    OK(perilune_engine_transfer(client, &write, 1, 5000, statuses));
    CHECK(statuses[0] == PERILUNE_OK && memcmp(base, local, SIZE) == 0);
    static unsigned char back[SIZE];
    perilune_transfer_t reads[2] = {{PERILUNE_READ, segment, SIZE / 2, back + SIZE / 2, SIZE / 2}, {PERILUNE_READ, segment, 0, back, SIZE / 2}};
    OK(perilune_batch_submit(client, reads, 2, 5000, &batch));
    OK(perilune_batch_wait(batch));
    OK(perilune_batch_wait(batch));
    OK(perilune_batch_status(batch, 0));
    OK(perilune_batch_status(batch, 1));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_status(batch, 2));
    CHECK(memcmp(back, local, SIZE) == 0);
    perilune_batch_t *stale_batch = batch;
    OK(perilune_batch_free(&batch));
    CHECK(batch == NULL);
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_free(&batch));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_wait(stale_batch));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_status(stale_batch, 0));

    /* Polling comes to an end by itself. */
    memset(back, 0, SIZE);
    OK(perilune_batch_submit(client, reads, 2, 5000, &batch));
    for (int i = 0; i < 2; i++) {
        perilune_status_t status = PERILUNE_PENDING;
        while (status == PERILUNE_PENDING) status = perilune_batch_status(batch, (size_t)i);
        CHECK(status == PERILUNE_OK);
    }
    CHECK(memcmp(back, local, SIZE) == 0);
    OK(perilune_batch_free(&batch));

    /* Freed at once: nothing touches the memory afterwards. */
    OK(perilune_batch_submit(client, reads, 2, 5000, &batch));
    OK(perilune_batch_free(&batch));
    memset(back, 0x5a, SIZE);
    OK(perilune_engine_transfer(client, &write, 1, 0, NULL));
    for (size_t i = 0; i < SIZE; i++) CHECK(back[i] == 0x5a);

    /* Beyond the end is refused, and does not spoil its neighbours. */
    perilune_transfer_t mixed[3] = {reads[0], {PERILUNE_READ, segment, SIZE - 1, back, 2}, reads[1]};
    mixed[1].local = local;
    EXPECT(PERILUNE_ILLEGAL_CLIENT, perilune_engine_transfer(client, mixed, 3, 5000, statuses));
    CHECK(statuses[0] == PERILUNE_OK && statuses[1] == PERILUNE_ILLEGAL_CLIENT && statuses[2] == PERILUNE_OK);
    mixed[1].offset = UINT64_MAX;
    CHECK(perilune_engine_transfer(client, mixed, 3, 5000, statuses) < 0);

    /* Nothing of this is started. */
    perilune_transfer_t wrong[] = {
        {2, segment, 0, local, 1},
        {PERILUNE_READ, NULL, 0, local, 1},
        {PERILUNE_READ, segment, 0, NULL, 1},
        {PERILUNE_READ, segment, 0, local, 0},
        {PERILUNE_READ, segment, 0, local, (size_t)-1},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_transfer(client, &wrong[i], 1, 0, NULL));
        EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_submit(client, &wrong[i], 1, 0, &batch));
        CHECK(batch == NULL);
    }
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_submit(client, NULL, 1, 0, &batch));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_submit(client, reads, 1, 0, NULL));
    OK(perilune_engine_transfer(client, NULL, 0, 0, NULL));

    /* Once withdrawn, no byte moves. */
    OK(perilune_engine_withdraw(server, descriptor.data, descriptor.length));
    EXPECT(PERILUNE_SEGMENT_NOT_FOUND, perilune_engine_withdraw(server, descriptor.data, descriptor.length));
    EXPECT(PERILUNE_SEGMENT_NOT_FOUND, perilune_engine_transfer(client, reads, 1, 5000, NULL));

    descriptor.data[descriptor.length / 2] ^= 1;
    perilune_segment_t *never = NULL;
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_open(client, descriptor.data, descriptor.length, &never));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_open(client, descriptor.data, 3, &never));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_open(client, NULL, 0, &never));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_withdraw(server, "x", 1));
    CHECK(never == NULL);
    perilune_buffer_free(&descriptor);

    OK(perilune_engine_unregister(client, local));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_unregister(client, local));
    perilune_segment_t *stale = segment;
    OK(perilune_segment_close(&segment));
    CHECK(segment == NULL);
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_segment_close(&segment));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_segment_size(stale, &size));
    reads[0].segment = stale;
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_transfer(client, reads, 1, 0, NULL));
}

static void lends_named_memory(perilune_engine_t *server, perilune_engine_t *client, const char *name) {
    char with_slash[256], bytes[4] = {0};
    perilune_buffer_t descriptor = {0};
    perilune_segment_t *segment = NULL;
    snprintf(with_slash, sizeof with_slash, "/%s", name);
    OK(perilune_engine_lend(server, with_slash, 0, 8192, NULL, &descriptor));
    OK(perilune_engine_open(client, descriptor.data, descriptor.length, &segment));
    perilune_transfer_t read = {PERILUNE_READ, segment, 0, bytes, 4};
    OK(perilune_engine_transfer(client, &read, 1, 5000, NULL));
    CHECK(memcmp(bytes, "kept", 4) == 0);
    perilune_buffer_free(&descriptor);
    OK(perilune_segment_close(&segment));

    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, name, 0, 8193, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, name, 1, 4096, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, "a/b", 0, 4096, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, "..", 0, 4096, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, "perilune_there_is_no_such", 0, 4096, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, NULL, 4096, 4096, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, NULL, 0, 0, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(server, NULL, 0, 4096, NULL, NULL));
    EXPECT(PERILUNE_UNAVAILABLE_IN_CURRENT_STATUS, perilune_engine_lend(client, NULL, 0, 4096, NULL, &descriptor));
}

static void refuses_dead_handles(perilune_engine_t *dead) {
    perilune_buffer_t descriptor = {0};
    perilune_segment_t *segment = NULL;
    perilune_batch_t *batch = NULL;
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_register(dead, local, 1));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_unregister(dead, local));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_lend(dead, NULL, 0, 4096, NULL, &descriptor));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_withdraw(dead, "x", 1));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_open(dead, "x", 1, &segment));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_transfer(dead, NULL, 0, 0, NULL));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_batch_submit(dead, NULL, 0, 0, &batch));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_close(&dead));
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    perilune_engine_t *over_tcp = NULL, *over_shm = NULL, *client = NULL, *never = NULL;
    perilune_engine_config_t tcp = {.listen_tcp = "127.0.0.1:0", .lanes = 1};
    perilune_engine_config_t shm = {.listen_shm = argv[1], .deadline_ms = 5000};
    OK(perilune_engine_create(&tcp, &over_tcp));
    OK(perilune_engine_create(&shm, &over_shm));
    OK(perilune_engine_create(NULL, &client));
    moves_bytes(over_tcp, client);
    moves_bytes(over_shm, client);
    lends_named_memory(over_tcp, client, argv[2]);

    perilune_engine_config_t nowhere = {.listen_tcp = "nowhere"}, crowded = {.lanes = 1000000}, pathless = {.listen_shm = "/no/such/folder/socket"};
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_create(&nowhere, &never));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_create(&crowded, &never));
    EXPECT(PERILUNE_UNAVAILABLE_IN_CURRENT_STATUS, perilune_engine_create(&pathless, &never));
    EXPECT(PERILUNE_INVALID_PARAMS, perilune_engine_create(NULL, NULL));
    CHECK(never == NULL);

    /* A peer that is gone. */
    perilune_buffer_t descriptor = {0};
    perilune_segment_t *segment = NULL;
    perilune_status_t status = 0;
    OK(perilune_engine_lend(over_tcp, NULL, 0, 4096, NULL, &descriptor));
    OK(perilune_engine_open(client, descriptor.data, descriptor.length, &segment));
    perilune_engine_t *stale = over_tcp;
    OK(perilune_engine_close(&over_tcp));
    perilune_transfer_t read = {PERILUNE_READ, segment, 0, local, 16};
    CHECK(perilune_engine_transfer(client, &read, 1, 2000, &status) < 0);
    CHECK(status < 0 && strlen(perilune_last_error()) > 0);
    perilune_buffer_free(&descriptor);

    OK(perilune_engine_close(&over_shm));
    OK(perilune_engine_close(&client));
    refuses_dead_handles(NULL);
    refuses_dead_handles(stale);
    refuses_dead_handles((perilune_engine_t *)(void *)local);
    OK(perilune_segment_close(&segment));
    puts("engine: all as promised");
    return 0;
}
