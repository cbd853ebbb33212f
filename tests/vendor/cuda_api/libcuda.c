/* A stand-in for NVIDIA's driver library (libcuda.so.1) on ordinary memory: as far as cuda_python.py calls it.

   Work on a stream is only queued, and run when that stream is waited for, so that a forgotten wait is seen. Device
   addresses are numbers that nothing is mapped at, and freed page-locked memory is unmapped: who uses either as
   ordinary memory crashes. Copies that are not from or to page-locked memory, or that leave their memory, are refused.
   The functions that begin with stand_in_ are the test's own; one of them stands for a kernel. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500,
       ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { MOST = 256, PAGE = 4096 };
typedef uint64_t pointer;
typedef struct { int alive; uint64_t address; size_t size; char *memory; int device_map; } block;
typedef struct { char kind; char *host; pointer device, device_from; size_t size; int event; } operation;
typedef struct { int alive, capturing, invalid, count; operation queue[MOST]; int recorded; operation graph[MOST]; } stream;
typedef struct { int alive, count; operation work[MOST]; } graph;
typedef struct { int alive, taken; float at_ms; } event;

static block hosts[MOST], devices[MOST];
static stream streams[8];
static graph graphs[16], executables[16];
static event events[64];
static int retained, sticky, driver_version = 13000, device_count = 1, integrated, initialised;
static float clock_ms;
static __thread int current[8], depth;
static int *capturing_thread, capture_mode;   /* a thread is known by the address of its own depth */
static char log_text[1 << 16], failing[64];
static int failing_code, failing_after, leaked = -1;

static int called(const char *name) {
    if (strlen(log_text) + strlen(name) + 2 < sizeof log_text) { strcat(log_text, name); strcat(log_text, " "); }
    if (sticky) return sticky;
    if (!strcmp(failing, name) && failing_after-- <= 0) {
        int code = failing_code;
        failing[0] = 0;
        if (code == ILLEGAL_ADDRESS) sticky = code;
        return code;
    }
    return SUCCESS;
}
static int in_context(const char *name) {
    int code = called(name);
    if (code) return code;
    return depth && current[depth - 1] && retained ? SUCCESS : INVALID_CONTEXT;
}
#define ENTER(name) do { int entered = in_context(name); if (entered) return entered; } while (0)

/* What the test asks for and looks at. */
void stand_in_fail(const char *name, int code, int after) { strcpy(failing, name); failing_code = code; failing_after = after; }
void stand_in_driver(int version) { driver_version = version; }
void stand_in_devices(int count, int shares) { device_count = count; integrated = shares; }
const char *stand_in_log(void) { return log_text; }
void stand_in_forget(void) { log_text[0] = 0; }
int stand_in_retained(void) { return retained; }
int stand_in_depth(void) { return depth; }
int stand_in_leaked(void) { return leaked; }   /* what still lived when the context went; -1 = it has not gone */
int stand_in_hosts(void) { int n = 0; for (int i = 0; i < MOST; i++) n += hosts[i].alive; return n; }

static block *find(block *all, uint64_t address, size_t size) {
    for (int i = 0; i < MOST; i++)
        if (all[i].alive && address >= all[i].address && address + size <= all[i].address + all[i].size) return &all[i];
    return 0;
}
static int room(block *all) { int i = 0; while (i < MOST && all[i].alive) i++; return i; }

int cuInit(unsigned flags) { initialised = 1; return called("cuInit"); }
int cuDriverGetVersion(int *version) { *version = driver_version; return called("cuDriverGetVersion"); }
int cuGetErrorName(int code, const char **text) {
    static const struct { int code; const char *name; } names[] = {
        {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"},
        {201, "CUDA_ERROR_INVALID_CONTEXT"},
        {700, "CUDA_ERROR_ILLEGAL_ADDRESS"}, {801, "CUDA_ERROR_NOT_SUPPORTED"},
        {999, "CUDA_ERROR_UNKNOWN"}, {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}, {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
    *text = 0;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) if (names[i].code == code) *text = names[i].name;
    return *text ? SUCCESS : INVALID_VALUE;
}
int cuGetErrorString(int code, const char **text) { *text = "words\nof the driver"; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = device_count; return called("cuDeviceGetCount"); }
int cuDeviceGet(int *device, int number) { *device = number; return called("cuDeviceGet"); }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Orin"); return called("cuDeviceGetName"); }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? integrated : attribute == 16 ? 14 : -1;
    return called("cuDeviceGetAttribute");
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    int code = called("cuDevicePrimaryCtxRetain");
    if (!code) { retained++; *context = (void *)(uintptr_t)0xc0; }
    return code;
}
int cuDevicePrimaryCtxRelease(int device) {
    called("cuDevicePrimaryCtxRelease");
    if (--retained == 0) {
        leaked = stand_in_hosts();
        for (int i = 0; i < MOST; i++) leaked += devices[i].alive;
        for (int i = 0; i < 8; i++) leaked += streams[i].alive;
        for (int i = 0; i < 64; i++) leaked += events[i].alive;
        for (int i = 0; i < 16; i++) leaked += graphs[i].alive + executables[i].alive;
        for (int i = 0; i < MOST; i++) if (hosts[i].alive) munmap(hosts[i].memory, hosts[i].size);
    }
    return SUCCESS;
}
int cuCtxPushCurrent(void *context) {
    int code = called("cuCtxPushCurrent");
    if (!code) current[depth++] = 1;
    return code;
}
int cuCtxPopCurrent(void **context) {
    int code = called("cuCtxPopCurrent");
    if (!depth) return INVALID_CONTEXT;
    current[--depth] = 0;
    if (context) *context = (void *)(uintptr_t)0xc0;
    return code;
}
int cuMemHostAlloc(void **memory, size_t size, unsigned flags) {
    ENTER("cuMemHostAlloc");
    int i = room(hosts);
    size_t whole = (size + PAGE - 1) / PAGE * PAGE;
    hosts[i] = (block){1, 0, size, mmap(0, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), flags & 2};
    memset(hosts[i].memory, 99, size);
    hosts[i].address = (uintptr_t)hosts[i].memory;
    *memory = hosts[i].memory;
    return SUCCESS;
}
int cuMemFreeHost(void *memory) {
    ENTER("cuMemFreeHost");
    block *found = find(hosts, (uintptr_t)memory, 1);
    if (!found) return INVALID_VALUE;
    munmap(found->memory, (found->size + PAGE - 1) / PAGE * PAGE);
    found->alive = 0;
    return SUCCESS;
}
/* The GPU sees mapped memory at another address than the processor. */
#define MAPPED_SHIFT 0x1000000000000000ull
int cuMemHostGetDevicePointer(pointer *device, void *memory, unsigned flags) {
    ENTER("cuMemHostGetDevicePointer");
    block *found = find(hosts, (uintptr_t)memory, 1);
    if (!found || !found->device_map) return INVALID_VALUE;
    *device = (uintptr_t)memory + MAPPED_SHIFT;
    return SUCCESS;
}
static stream *any_capturing(void) { for (int i = 0; i < 8; i++) if (streams[i].capturing) return &streams[i]; return 0; }
int cuMemAlloc(pointer *device, size_t size) {
    ENTER("cuMemAlloc");
    if (any_capturing() && (capture_mode == 0 || capturing_thread == &depth)) {   /* 0: no thread may do this now */
        any_capturing()->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    int i = room(devices);
    devices[i] = (block){1, 0x7000000000ull + ((uint64_t)i << 24), size, malloc(size), 0};
    memset(devices[i].memory, 66, size);
    *device = devices[i].address;
    return SUCCESS;
}
int cuMemFree(pointer device) {
    ENTER("cuMemFree");
    block *found = find(devices, device, 1);
    if (!found) return INVALID_VALUE;
    free(found->memory);
    found->alive = 0;
    return SUCCESS;
}
static char *seen_by_gpu(pointer address, size_t size) {
    block *found = find(devices, address, size);
    if (found) return found->memory + (address - found->address);
    found = find(hosts, address - MAPPED_SHIFT, size);
    return found && found->device_map ? (char *)(uintptr_t)(address - MAPPED_SHIFT) : 0;
}

int cuStreamCreate(void **made, unsigned flags) {
    ENTER("cuStreamCreate");
    if (flags != 1) return INVALID_VALUE;   /* the default stream would be waited for */
    int i = 0;
    while (streams[i].alive) i++;
    memset(&streams[i], 0, sizeof streams[i]);
    streams[i].alive = 1;
    *made = &streams[i];
    return SUCCESS;
}
int cuStreamDestroy(void *made) { ENTER("cuStreamDestroy"); ((stream *)made)->alive = 0; return SUCCESS; }
static int put(stream *on, operation what) {
    if (on < streams || on >= streams + 8 || !on->alive) return INVALID_VALUE;
    if (on->capturing) on->graph[on->recorded++] = what; else on->queue[on->count++] = what;
    return SUCCESS;
}
int cuMemcpyHtoDAsync(pointer device, const void *host, size_t size, void *on) {
    ENTER("cuMemcpyHtoDAsync");
    if (!find(hosts, (uintptr_t)host, size) || !find(devices, device, size)) return INVALID_VALUE;
    return put(on, (operation){'i', (char *)host, device, 0, size, 0});
}
int cuMemcpyDtoHAsync(void *host, pointer device, size_t size, void *on) {
    ENTER("cuMemcpyDtoHAsync");
    if (!find(hosts, (uintptr_t)host, size) || !find(devices, device, size)) return INVALID_VALUE;
    return put(on, (operation){'o', host, device, 0, size, 0});
}
/* A kernel: each byte of its output is 255 less that of its input. */
int stand_in_kernel(pointer to, pointer from, size_t size, void *on) { return put(on, (operation){'k', 0, to, from, size, 0}); }
static int run(operation *what) {
    clock_ms += 1.5f;
    char *device = what->kind == 'e' ? 0 : seen_by_gpu(what->device, what->size);
    if (what->kind == 'e') { events[what->event].at_ms = clock_ms; events[what->event].taken = 1; return SUCCESS; }
    if (!device) return sticky = ILLEGAL_ADDRESS;
    if (what->kind == 'i') memcpy(device, what->host, what->size);
    if (what->kind == 'o') memcpy(what->host, device, what->size);
    if (what->kind == 'k') {
        char *from = seen_by_gpu(what->device_from, what->size);
        if (!from) return sticky = ILLEGAL_ADDRESS;
        for (size_t i = 0; i < what->size; i++) device[i] = (char)(255 - (unsigned char)from[i]);
    }
    return SUCCESS;
}
int cuStreamSynchronize(void *on) {
    ENTER("cuStreamSynchronize");
    stream *it = on;
    if (it->capturing) { it->invalid = 1; return CAPTURE_UNSUPPORTED; }
    int code = SUCCESS;
    for (int i = 0; i < it->count && !code; i++) code = run(&it->queue[i]);
    it->count = 0;
    return code;
}
int cuEventCreate(void **made, unsigned flags) {
    ENTER("cuEventCreate");
    int i = 1;
    while (events[i].alive) i++;
    events[i] = (event){1, 0, 0};
    *made = (void *)(uintptr_t)i;
    return SUCCESS;
}
int cuEventDestroy(void *made) { ENTER("cuEventDestroy"); events[(uintptr_t)made].alive = 0; return SUCCESS; }
int cuEventRecord(void *made, void *on) { ENTER("cuEventRecord"); return put(on, (operation){'e', 0, 0, 0, 0, (int)(uintptr_t)made}); }
int cuEventElapsedTime(float *ms, void *start, void *end) {
    ENTER("cuEventElapsedTime");
    event *first = &events[(uintptr_t)start], *last = &events[(uintptr_t)end];
    if (!first->taken || !last->taken) return INVALID_VALUE;
    *ms = last->at_ms - first->at_ms;
    return SUCCESS;
}
int cuStreamBeginCapture(void *on, int mode) {
    ENTER("cuStreamBeginCapture");
    stream *it = on;
    if (it->capturing || it->count) return INVALID_VALUE;
    it->capturing = 1; it->invalid = it->recorded = 0;
    capture_mode = mode; capturing_thread = &depth;
    return SUCCESS;
}
int cuStreamEndCapture(void *on, void **made) {
    ENTER("cuStreamEndCapture");
    stream *it = on;
    if (!it->capturing) return INVALID_VALUE;
    it->capturing = 0;
    *made = 0;
    if (it->invalid) return CAPTURE_INVALIDATED;
    int i = 0;
    while (graphs[i].alive) i++;
    graphs[i].alive = 1; graphs[i].count = it->recorded;
    memcpy(graphs[i].work, it->graph, sizeof it->graph);
    *made = &graphs[i];
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(void **made, void *recorded, unsigned long long flags) {
    ENTER("cuGraphInstantiate");
    int i = 0;
    while (executables[i].alive) i++;
    executables[i] = *(graph *)recorded;
    *made = &executables[i];
    return SUCCESS;
}
int cuGraphDestroy(void *recorded) { ENTER("cuGraphDestroy"); ((graph *)recorded)->alive = 0; return SUCCESS; }
int cuGraphExecDestroy(void *made) {
    ENTER("cuGraphExecDestroy");
    graph *it = made;
    if (!it->alive) return INVALID_VALUE;
    it->alive = 0;
    return SUCCESS;
}
int cuGraphLaunch(void *made, void *on) {
    ENTER("cuGraphLaunch");
    graph *it = made;
    if (!it->alive) return INVALID_VALUE;
    for (int i = 0; i < it->count; i++) { int code = put(on, it->work[i]); if (code) return code; }
    return SUCCESS;
}

/* How cuda-bindings finds the functions: by their names without _v2, and by the CUDA version of their meaning. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    *function = version > driver_version ? 0 : dlsym(RTLD_DEFAULT, name);
    if (!*function && version <= driver_version) {
        void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
        *function = self ? dlsym(self, name) : 0;
    }
    if (status) *status = *function ? 0 : version > driver_version ? 2 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, 0);
}
