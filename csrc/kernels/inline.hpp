// Functions that are inlined always, at -O0 as well: what the instruction sets' objects share must leave no code of
// theirs behind that the linker could hand to another caller.
#pragma once

#define FP_INLINE static inline __attribute__((always_inline))
#define FP_INLINE_MEMBER inline __attribute__((always_inline))
