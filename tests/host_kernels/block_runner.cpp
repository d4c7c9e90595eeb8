// Runs the blocks of a kernel on this machine, and watches every access to memory.
//
// A CUDA thread is a fiber, which runs until it waits for its warp or its block; one warp after the
// other runs until all of it waits for the block. The order is given, so a run repeats, and two orders
// that give other bits show a race. An exchange of a warp also orders its memory here.
//
// g++'s -fsanitize=address announces each read and write, and each shared array with a gap behind it.
// The functions that it calls are here instead of its library's: an access outside the arguments'
// arrays, the shared arrays and the fiber's own stack ends the kernel before it happens.

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

struct Index { unsigned x, y, z; };
Index threadIdx, blockIdx, gridDim;
struct Words { unsigned word[8]; };

namespace {

constexpr unsigned WARP = 32;
constexpr std::size_t STACK = 256 << 10;

struct Range { std::uintptr_t begin, end; std::string name; };
struct Fiber {
  enum State { READY, IN_WARP, IN_BLOCK, DONE } state;
  int kind;  // of the exchange in which it waits
  Words own;
  jmp_buf where;
  bool has_begun;
  char* stack;
};
struct Warp { Words words[WARP]; };

std::vector<Range> arrays;
std::vector<Range>& shared_arrays() {  // announced before this file's own variables are made
  static std::vector<Range> all;
  return all;
}
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::string error;
bool is_backwards = false;
jmp_buf scheduler;
Fiber* current = nullptr;
void (*body)(void**);
void** given;

void back_to_scheduler() { _longjmp(scheduler, 1); }

void fail(const std::string& words) {
  error = words + " (block " + std::to_string(blockIdx.x) + ", thread " +
          std::to_string(threadIdx.x) + ")";
  back_to_scheduler();
}

void wait_in(Fiber::State state) {
  current->state = state;
  if (_setjmp(current->where) == 0) back_to_scheduler();
}

void begin() {
  body(given);
  current->state = Fiber::DONE;
  back_to_scheduler();
}

// On a stack of its own. Jumps from there on: swapcontext asks the kernel for signals at each switch.
void start(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = STACK;
  makecontext(&context, begin, 0);
  fiber.has_begun = true;
  setcontext(&context);
}

void resume(unsigned thread) {
  current = &fibers[thread];
  threadIdx.x = thread;
  if (_setjmp(scheduler) != 0) return;
  if (current->has_begun) _longjmp(current->where, 1);
  start(*current);
}

bool release_warp(unsigned first) {
  for (unsigned lane = 0; lane < WARP; ++lane) {
    const Fiber& fiber = fibers[first + lane];
    if (fiber.state != Fiber::IN_WARP || fiber.kind != fibers[first].kind) return false;
  }
  for (unsigned lane = 0; lane < WARP; ++lane) {
    warps[first / WARP].words[lane] = fibers[first + lane].own;
    fibers[first + lane].state = Fiber::READY;
  }
  return true;
}

// As far as its lanes come before all wait for the block: the other warps meanwhile stand still, which
// is as far apart as warps can be.
void run_warp(unsigned first) {
  do {
    for (unsigned i = 0; i < WARP && error.empty(); ++i) {
      const unsigned thread = first + (is_backwards ? WARP - 1 - i : i);
      if (fibers[thread].state == Fiber::READY) resume(thread);
    }
  } while (error.empty() && release_warp(first));
}

// Whether there is more to do. Threads that have returned are not waited for.
bool release_block(unsigned threads) {
  bool is_done = true, is_stuck = false;
  for (unsigned i = 0; i < threads; ++i) {
    is_done &= fibers[i].state == Fiber::DONE;
    is_stuck |= fibers[i].state == Fiber::IN_WARP;
    if (fibers[i].state == Fiber::IN_BLOCK) fibers[i].state = Fiber::READY;
  }
  if (is_stuck)
    error = "threads of block " + std::to_string(blockIdx.x) +
            " wait for lanes of their warp that do not come";
  return !is_done && !is_stuck;
}

void run_block(unsigned threads) {
  // What a block finds in shared memory is nothing to rely on: all bits set are no number.
  for (const Range& array : shared_arrays())
    std::memset((void*)array.begin, 0xff, array.end - array.begin);
  for (Fiber& fiber : fibers) fiber.state = Fiber::READY, fiber.has_begun = false;
  do {
    for (unsigned i = 0; i < threads; i += WARP)
      run_warp(is_backwards ? threads - WARP - i : i);
  } while (error.empty() && release_block(threads));
}

bool lies_in(const std::vector<Range>& ranges, std::uintptr_t address, std::size_t size) {
  for (const Range& range : ranges)
    if (address >= range.begin && address + size <= range.end) return true;
  return false;
}

void check(std::uintptr_t address, std::size_t size, const char* what) {
  if (current == nullptr) return;
  const auto stack = (std::uintptr_t)current->stack;
  if (address >= stack && address + size <= stack + STACK) return;
  if (lies_in(arrays, address, size) || lies_in(shared_arrays(), address, size)) return;
  if (address >= (std::uintptr_t)warps.data() &&
      address + size <= (std::uintptr_t)(warps.data() + warps.size())) return;
  for (const Index* index : {&threadIdx, &blockIdx, &gridDim})
    if (address - (std::uintptr_t)index < sizeof(Index)) return;
  char words[100];
  std::snprintf(words, sizeof words, "%s of %zu bytes at %#zx, outside of all arrays", what, size,
                (std::size_t)address);
  std::string near;
  for (const auto* ranges : {&arrays, &shared_arrays()})
    for (const Range& range : *ranges) {
      const long before = (long)range.begin - (long)address, behind = (long)address - (long)range.end;
      if (before > 0 && before < 4096)
        near += ", " + std::to_string(before) + " before " + range.name;
      if (behind >= -(long)size && behind < 4096)
        near += ", " + std::to_string(behind) + " behind the end of " + range.name;
    }
  fail(words + near);
}

}  // namespace

const Words* exchanged(const Words& own, int kind) {
  current->own = own;
  current->kind = kind;
  const unsigned warp = threadIdx.x / WARP;
  wait_in(Fiber::IN_WARP);
  return warps[warp].words;
}
void wait_for_block() { wait_in(Fiber::IN_BLOCK); }
void refuse_to_run(const char* words) { error = words; }

void run_blocks(
    void (*kernel)(void**), void** arguments, unsigned blocks, unsigned rows, unsigned threads) {
  body = kernel;
  given = arguments;
  error.clear();
  const std::unique_ptr<char[]> stacks(new char[STACK * threads]);  // taken where they are touched
  fibers.assign(threads, Fiber{});
  for (unsigned i = 0; i < threads; ++i) fibers[i].stack = stacks.get() + i * STACK;
  warps.resize(threads / WARP);
  gridDim = {blocks, rows, 1};
  for (unsigned i = 0; i < blocks * rows && error.empty(); ++i) {
    const unsigned block = is_backwards ? blocks * rows - 1 - i : i;
    blockIdx = {block % blocks, block / blocks, 0};
    run_block(threads);
  }
  current = nullptr;
}

extern "C" {

const char* last_error() { return error.c_str(); }
void run_backwards(int is_so) { is_backwards = is_so; }
void forget_arrays() { arrays.clear(); }
void allow_array(void* begin, std::size_t size, const char* name) {
  arrays.push_back({(std::uintptr_t)begin, (std::uintptr_t)begin + size, name});
}

// What g++ calls. The layout is that of version 8 of its interface.
struct Global {
  std::uintptr_t begin;
  std::size_t size, size_with_gap;
  const char *name, *module;
  std::uintptr_t is_dynamic;
  void *location, *indicator;
};
void __asan_register_globals(Global* globals, std::size_t count) {
  for (Global* at = globals; at != globals + count; ++at)
    if (at->name[0] != '*')  // constants of the compiler
      shared_arrays().push_back({at->begin, at->begin + at->size, at->name});
}
void __asan_unregister_globals(Global*, std::size_t) {}
void __asan_init() {}
void __asan_version_mismatch_check_v8() {}
void __asan_handle_no_return() {}
#define WATCHED(size)                                                                           \
  void __asan_load##size(std::uintptr_t address) { check(address, size, "a read"); }            \
  void __asan_store##size(std::uintptr_t address) { check(address, size, "a write"); }
WATCHED(1) WATCHED(2) WATCHED(4) WATCHED(8) WATCHED(16)
void __asan_loadN(std::uintptr_t address, std::size_t size) { check(address, size, "a read"); }
void __asan_storeN(std::uintptr_t address, std::size_t size) { check(address, size, "a write"); }

}
