/* A double of libcudart for machines without a GPU: "device" memory is host memory, copies are checked against what
 * was allocated, everything handed out is counted, and any call can be made to fail, to hang or to give null. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX = 4096, INVALID = 1, OUT_OF_MEMORY = 2, NOT_READY = 600, ILLEGAL_ADDRESS = 700 };
enum kind { NONE, DEVICE, PINNED, STREAM, EVENT, GRAPH, EXEC };

static struct { void *address; size_t size; enum kind kind; double time; } held[MAX];
static struct { char name[64]; int calls; } counted[64];
static char fail_name[64], null_name[64];
static int fail_at, fail_code, hangs, bad_frees, capturing, devices = 1;
static size_t room = (size_t)-1;
/* What a stream does while it is captured is put on a tape, and done when the graph is launched. One graph at a time. */
static struct { void *target; const void *source; size_t size; void (*work)(void); } tape[64];
static int taped;

static int entered(const char *name) {
    for (int i = 0; i < 64; i++) {
        if (!counted[i].name[0]) strncpy(counted[i].name, name, 63);
        if (!strcmp(counted[i].name, name)) {
            counted[i].calls++;
            if (!strcmp(fail_name, name) && counted[i].calls == fail_at) return fail_code;
            return 0;
        }
    }
    return 0;
}
#define ENTER do { int code = entered(__func__); if (code) return code; } while (0)

static int hold(void **out, size_t size, enum kind kind, const char *name) {
    if (!strcmp(null_name, name)) { *out = 0; return 0; }
    for (int i = 0; i < MAX; i++)
        if (held[i].kind == NONE) {
            held[i].address = calloc(1, size ? size : 1);
            held[i].size = size;
            held[i].kind = kind;
            *out = held[i].address;
            return 0;
        }
    return OUT_OF_MEMORY;
}
static int find(const void *address, size_t size, enum kind kind) {
    for (int i = 0; i < MAX; i++)
        if (held[i].kind == kind && (const char *)address >= (char *)held[i].address &&
            (const char *)address + size <= (char *)held[i].address + held[i].size)
            return i;
    return -1;
}
static int give_back(void *address, enum kind kind) {
    for (int i = 0; i < MAX; i++)
        if (held[i].kind == kind && held[i].address == address) {
            free(address);
            held[i].kind = NONE;
            held[i].address = 0;
            return 0;
        }
    bad_frees++;
    return INVALID;
}

/* control */
void double_reset(void) {
    for (int i = 0; i < MAX; i++) if (held[i].kind != NONE) { free(held[i].address); held[i].kind = NONE; }
    memset(counted, 0, sizeof counted);
    fail_name[0] = null_name[0] = 0;
    fail_at = fail_code = hangs = bad_frees = capturing = taped = 0;
    devices = 1;
    room = (size_t)-1;
}
void double_fail(const char *name, int at, int code) { strncpy(fail_name, name, 63); fail_at = at; fail_code = code; }
void double_null(const char *name) { strncpy(null_name, name, 63); }
void double_hang(int on) { hangs = on; }
void double_room(size_t bytes) { room = bytes; }
void double_devices(int count) { devices = count; }
int double_bad_frees(void) { return bad_frees; }
int double_capturing(void) { return capturing; }
int double_live(void) { int n = 0; for (int i = 0; i < MAX; i++) n += held[i].kind != NONE; return n; }
int double_calls(const char *name) {
    for (int i = 0; i < 64; i++) if (!strcmp(counted[i].name, name)) return counted[i].calls;
    return 0;
}

/* Stands for a kernel: done now, or put on the tape. */
int double_run(void (*work)(void)) {
    if (!capturing) { work(); return 0; }
    if (taped == 64) return OUT_OF_MEMORY;
    tape[taped].work = work;
    tape[taped++].size = 0;
    return 0;
}

/* the runtime */
const char *cudaGetErrorString(int code) {
    switch (code) {
    case 2: return "out of memory";
    case 35: return "CUDA driver version is insufficient for CUDA runtime version";
    case 700: return "an illegal memory access was encountered";
    default: return "an error of the double";
    }
}
int cudaGetLastError(void) { ENTER; return 0; }
int cudaGetDeviceCount(int *count) { ENTER; *count = devices; return 0; }
int cudaSetDevice(int device) { ENTER; return device < devices ? 0 : 101; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER; (void)device; *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 0; return 0;
}
int cudaGetDeviceProperties(void *room_for, int device) { ENTER; (void)device; strcpy(room_for, "Double"); return 0; }
int cudaDriverGetVersion(int *version) { ENTER; *version = 12060; return 0; }
int cudaRuntimeGetVersion(int *version) { ENTER; *version = 12040; return 0; }
int cudaMemGetInfo(size_t *spare, size_t *total) { ENTER; *spare = 1 << 28; *total = 1 << 30; return 0; }
int cudaMalloc(void **out, size_t size) {
    ENTER;
    if (size > room) return OUT_OF_MEMORY;
    room -= room == (size_t)-1 ? 0 : size;
    return hold(out, size, DEVICE, __func__);
}
int cudaFree(void *address) { int code = entered(__func__), r = give_back(address, DEVICE); return code ? code : r; }
int cudaHostAlloc(void **out, size_t size, unsigned flags) { ENTER; (void)flags; return hold(out, size, PINNED, __func__); }
int cudaFreeHost(void *address) { int code = entered(__func__), r = give_back(address, PINNED); return code ? code : r; }
int cudaMemcpyAsync(void *target, const void *source, size_t size, int direction, void *stream) {
    ENTER;
    if (find(stream, 1, STREAM) < 0) return INVALID;
    enum kind to = direction == 1 ? DEVICE : PINNED, from = direction == 1 ? PINNED : DEVICE;
    if (find(target, size, to) < 0 || find(source, size, from) < 0) return ILLEGAL_ADDRESS;
    if (!capturing) { memcpy(target, source, size); return 0; }
    if (taped == 64) return OUT_OF_MEMORY;
    tape[taped].work = 0;
    tape[taped].target = target;
    tape[taped].source = source;
    tape[taped++].size = size;
    return 0;
}
int cudaStreamCreateWithFlags(void **out, unsigned flags) { ENTER; return flags == 1 ? hold(out, 8, STREAM, __func__) : INVALID; }
int cudaStreamDestroy(void *stream) { int code = entered(__func__), r = give_back(stream, STREAM); return code ? code : r; }
int cudaStreamQuery(void *stream) { ENTER; return find(stream, 1, STREAM) < 0 ? INVALID : hangs ? NOT_READY : 0; }
int cudaStreamBeginCapture(void *stream, int mode) {
    ENTER; (void)mode;
    if (find(stream, 1, STREAM) < 0 || capturing) return INVALID;
    capturing = 1;
    taped = 0;
    return 0;
}
int cudaStreamEndCapture(void *stream, void **graph) {
    int code = entered(__func__), was = capturing;
    (void)stream;
    capturing = 0;
    if (code) return code;
    return was ? hold(graph, 8, GRAPH, __func__) : INVALID;
}
int cudaEventCreateWithFlags(void **out, unsigned flags) { ENTER; (void)flags; return hold(out, 8, EVENT, __func__); }
int cudaEventDestroy(void *event) { int code = entered(__func__), r = give_back(event, EVENT); return code ? code : r; }
int cudaEventRecord(void *event, void *stream) {
    ENTER;
    int i = find(event, 1, EVENT);
    struct timespec now;
    if (i < 0 || find(stream, 1, STREAM) < 0) return INVALID;
    clock_gettime(CLOCK_MONOTONIC, &now);
    held[i].time = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
    return 0;
}
int cudaEventElapsedTime(float *ms, void *start, void *end) {
    ENTER;
    int a = find(start, 1, EVENT), b = find(end, 1, EVENT);
    if (a < 0 || b < 0) return INVALID;
    *ms = (float)(held[b].time - held[a].time);
    return 0;
}
int cudaGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    ENTER; (void)flags;
    return find(graph, 1, GRAPH) < 0 ? INVALID : hold(exec, 8, EXEC, __func__);
}
int cudaGraphLaunch(void *exec, void *stream) {
    ENTER;
    if (find(exec, 1, EXEC) < 0 || find(stream, 1, STREAM) < 0) return INVALID;
    for (int i = 0; i < taped; i++)
        if (tape[i].work) tape[i].work();
        else memcpy(tape[i].target, tape[i].source, tape[i].size);
    return 0;
}
int cudaGraphDestroy(void *graph) { int code = entered(__func__), r = give_back(graph, GRAPH); return code ? code : r; }
int cudaGraphExecDestroy(void *exec) { int code = entered(__func__), r = give_back(exec, EXEC); return code ? code : r; }
