#include "runtime/dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(FP_BUILT_AVX2) || defined(FP_BUILT_AVX512))
#include <cpuid.h>
#define FP_ASK_CPUID 1
#endif

namespace fp {
namespace {

struct Candidate {
  const Table* table;
  bool (*usable)();
};

bool always() { return true; }

#if defined(FP_ASK_CPUID)

struct Features {
  bool avx2 = false, avx512 = false;
};

// What the CPU offers counts only with the registers the operating system saves and restores (XCR0).
Features features() {
  Features f;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28;
  if ((c & (kFma | kOsxsave | kAvx)) != (kFma | kOsxsave | kAvx)) return f;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kYmm = 0x06, kZmm = 0xe6;
  if ((low & kYmm) != kYmm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  constexpr unsigned kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  f.avx2 = b & kAvx2;
  f.avx512 = f.avx2 && (low & kZmm) == kZmm && (b & (kF | kDq | kBw | kVl)) == (kF | kDq | kBw | kVl);
  return f;
}

bool has_avx2() { return features().avx2; }
bool has_avx512() { return features().avx512; }

#endif

// Best first.
const Candidate kCandidates[] = {
#if defined(FP_BUILT_AVX512)
    {&fp_table_avx512, has_avx512},
#endif
#if defined(FP_BUILT_AVX2)
    {&fp_table_avx2, has_avx2},
#endif
#if defined(FP_BUILT_NEON)
    {&fp_table_neon, always},
#endif
    {&fp_table_generic, always},
};

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const Table& best() {
  for (const Candidate& c : kCandidates)
    if (c.usable()) return *c.table;
  return fp_table_generic;
}

const Table& named(const std::string& name, const char* asked_by) {
  for (const Candidate& c : kCandidates) {
    if (name != c.table->name) continue;
    if (c.usable()) return *c.table;
    throw std::runtime_error(std::string(asked_by) + ": this CPU or operating system lacks instruction set '" + name +
                             "'; usable here: " + joined(instruction_sets_usable()));
  }
  throw std::runtime_error(std::string(asked_by) + ": expected 'auto' or one of the instruction sets built (" +
                           joined(instruction_sets_built()) + "); received '" + name + "'");
}

std::atomic<const Table*> current{nullptr};
std::atomic<const char*> reason{"best usable"};

}  // namespace

const Table& table() {
  const Table* t = current.load(std::memory_order_acquire);
  if (t) return *t;
  const char* name = std::getenv("FASTPERCEPTRON_ISA");
  bool asked = name && *name && std::string(name) != "auto";
  const Table& chosen = asked ? named(name, "FASTPERCEPTRON_ISA") : best();
  if (current.compare_exchange_strong(t, &chosen, std::memory_order_acq_rel))
    reason.store(asked ? "FASTPERCEPTRON_ISA" : "best usable", std::memory_order_relaxed);
  return *current.load(std::memory_order_acquire);
}

void set_instruction_set(const std::string& name) {
  const Table& chosen = name == "auto" ? best() : named(name, "set_instruction_set");
  current.store(&chosen, std::memory_order_release);
  reason.store(name == "auto" ? "best usable" : "set_instruction_set", std::memory_order_relaxed);
}

std::vector<std::string> instruction_sets_built() {
  std::vector<std::string> names;
  for (const Candidate& c : kCandidates) names.emplace_back(c.table->name);
  return names;
}

std::vector<std::string> instruction_sets_usable() {
  std::vector<std::string> names;
  for (const Candidate& c : kCandidates)
    if (c.usable()) names.emplace_back(c.table->name);
  return names;
}

std::string instruction_set_reason() { return reason.load(std::memory_order_relaxed); }

}  // namespace fp
