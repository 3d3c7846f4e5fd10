// What this machine can do at most, measured: the share of it that an operation reaches says how good the operation is.
#pragma once

namespace fp {

// Flop per second of `threads` threads, each doing nothing but independent multiply-adds in registers for about
// `seconds`. Defined for float and double; a kernel for another number format gets its own function beside this one.
template <class T>
double measure_peak(int threads, double seconds);
// The same for products of bfloat16 operands, on the path in use.
double measure_peak16(int threads, double seconds);

struct Bandwidth {
  double read;    // bytes per second, summing
  double update;  // bytes per second, y += x: two reads and a write, as an optimizer's step does
};

// Of `threads` threads that each go through their part of `bytes` of memory, over and over for about `seconds` each
// way. Throws std::bad_alloc.
Bandwidth measure_bandwidth(int threads, double bytes, double seconds);

// Seconds that a cache line takes from one thread to another and back, as both wait for each other: how far apart two
// CPUs are. The median over about `seconds`; 0 where there is no second thread.
double measure_round_trip(double seconds);

}  // namespace fp
