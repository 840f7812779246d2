#include "host_cuda/fibers.h"

#include <cstdint>

#if HOST_CUDA_OWN_SWITCH

// void host_cuda_switch(void** from, void* to): saves what the System V calling convention has a function preserve, and
// returns on the other stack. All switches come from one place, so the processor predicts the return. The rounding mode
// is the process's.
asm(R"(
  .text
  .p2align 4
  .globl host_cuda_switch
  .hidden host_cuda_switch
  .type host_cuda_switch, @function
host_cuda_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size host_cuda_switch, .-host_cuda_switch
)");
extern "C" __attribute__((visibility("hidden"))) void host_cuda_switch(void** from, void* to);

namespace host_cuda {

void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  const auto top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15};
  auto* words = reinterpret_cast<void**>(top);
  *--words = nullptr;  // entry()'s return address: none, which is also where a backtrace ends
  *--words = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) {
    *--words = nullptr;
  }
  context.stack_pointer = words;
}

void switch_context(Context& from, Context& to) {
  host_cuda_switch(&from.stack_pointer, to.stack_pointer);
}

}  // namespace host_cuda

#else

namespace host_cuda {

void prepare(Context& context, char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = bytes;
  context.context.uc_link = nullptr;
  makecontext(&context.context, entry, 0);
}

void switch_context(Context& from, Context& to) {
  swapcontext(&from.context, &to.context);
}

}  // namespace host_cuda

#endif
