#include "runtime/dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#if (defined(__x86_64__) || defined(_M_X64)) && (defined(FP_BUILT_AVX2) || defined(FP_BUILT_AVX512))
#include <cpuid.h>
#define FP_ASK_CPUID 1
#endif
#if defined(FP_BUILT_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
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
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx = false;
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
  const bool more = a >= 1;
  constexpr unsigned kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kBw = 1u << 30, kVl = 1u << 31;
  f.avx2 = b & kAvx2;
  f.avx512 = f.avx2 && (low & kZmm) == kZmm && (b & (kF | kDq | kBw | kVl)) == (kF | kDq | kBw | kVl);
  constexpr unsigned kTileState = 3u << 17, kTile = 1u << 24, kTileBf16 = 1u << 22, kBf16 = 1u << 5;
  const bool tiles = (low & kTileState) == kTileState && (d & (kTile | kTileBf16)) == (kTile | kTileBf16);
  if (!f.avx512 || !more || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return f;
  f.avx512_bf16 = a & kBf16;
  f.amx = f.avx512_bf16 && tiles;
  return f;
}

bool has_avx2() { return features().avx2; }
bool has_avx512() { return features().avx512; }
#if defined(FP_BUILT_AVX512_BF16) || defined(FP_BUILT_AMX_SOFTWARE)
bool has_avx512_bf16() { return features().avx512_bf16; }
#endif

#endif

#if defined(FP_BUILT_AMX)
// Linux gives a process AMX's tile registers (8 KiB per thread, to be saved at every switch) only when it asks.
constexpr long kAskSupported = 0x1021, kAskPermission = 0x1023, kTileData = 18;  // asm/prctl.h

bool has_amx() {
#if defined(__linux__)
  unsigned long supported = 0;
  return features().amx && syscall(SYS_arch_prctl, kAskSupported, &supported) == 0 && (supported >> kTileData & 1);
#else
  return false;
#endif
}

bool take_amx() {
#if defined(__linux__)
  return syscall(SYS_arch_prctl, kAskPermission, kTileData) == 0;
#else
  return false;
#endif
}
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

// Paths of bfloat16 products beyond the tables' own, best first.
struct Path {
  const Products16* products;
  bool (*usable)();
  bool (*take)();   // asks the system for what the path needs
  bool only_named;  // never chosen without being asked for
};

const Path kPaths[] = {
#if defined(FP_BUILT_AMX)
    {&fp_bf16_amx, has_amx, take_amx, false},
#endif
#if defined(FP_BUILT_AVX512_BF16)
    {&fp_bf16_avx512_bf16, has_avx512_bf16, always, false},
#endif
#if defined(FP_BUILT_AMX_SOFTWARE)
    {&fp_bf16_amx_software, has_avx512_bf16, always, true},
#endif
    {nullptr, nullptr, nullptr, true},
};

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// What a name stands for; path is nullptr for a table's own products.
struct Choice {
  const Table* table;
  const Path* path;
};

const Table& best_table() {
  for (const Candidate& c : kCandidates)
    if (c.usable()) return *c.table;
  return fp_table_generic;
}

Choice named(const std::string& name, const char* asked_by) {
  Choice choice{nullptr, nullptr};
  bool usable = false;
  for (const Candidate& c : kCandidates)
    if (name == c.table->name) {
      choice.table = c.table;
      usable = c.usable();
    }
  for (const Path& p : kPaths)
    if (p.products && name == p.products->name) {
      choice = {&best_table(), &p};
      usable = p.usable();
    }
  std::vector<std::string> known = bfloat16_paths_built();
  if (!choice.table)
    throw std::runtime_error(
        std::string(asked_by) +
        ": expected 'auto', or an instruction set or a path of bfloat16 products that was built (" + joined(known) +
        "); received '" + name + "'");
  if (usable) return choice;
  throw std::runtime_error(std::string(asked_by) + ": this CPU or operating system lacks instruction set '" + name +
                           "'; usable here: " + joined(bfloat16_paths_usable()));
}

constexpr const char *kBest = "best usable", *kBestWithout = "best usable; the system refused the registers of amx",
                     *kEnvironment = "FASTPERCEPTRON_ISA", *kCall = "set_instruction_set";

std::atomic<const Table*> current{nullptr};
std::atomic<const char*> reason{kBest};
std::atomic<const Products16*> current16{nullptr};
std::atomic<const char*> reason16{kBest};

// FASTPERCEPTRON_ISA, or nullptr when it leaves the choice to us.
const char* environment() {
  const char* name = std::getenv(kEnvironment);
  return name && *name && std::string(name) != "auto" ? name : nullptr;
}

const Products16& take(const Choice& choice, const char* asked_by) {
  if (!choice.path) return *choice.table->bf16;
  if (choice.path->take()) return *choice.path->products;
  throw std::runtime_error(std::string(asked_by) + ": the system refused the registers of '" +
                           choice.path->products->name + "'");
}

const Products16& best_products(const char*& why) {
  why = kBest;
  for (const Path& p : kPaths) {
    if (p.only_named || !p.usable()) continue;
    if (p.take()) return *p.products;
    why = kBestWithout;
  }
  return *best_table().bf16;
}

}  // namespace

const Table& table() {
  const Table* t = current.load(std::memory_order_acquire);
  if (t) return *t;
  const char* name = environment();
  const Table& chosen = name ? *named(name, kEnvironment).table : best_table();
  if (current.compare_exchange_strong(t, &chosen, std::memory_order_acq_rel))
    reason.store(name ? kEnvironment : kBest, std::memory_order_relaxed);
  return *current.load(std::memory_order_acquire);
}

const Products16& products16() {
  const Products16* p = current16.load(std::memory_order_acquire);
  if (p) return *p;
  const char* name = environment();
  const char* why = kEnvironment;
  const Products16* chosen = name ? &take(named(name, kEnvironment), kEnvironment) : &best_products(why);
  if (current16.compare_exchange_strong(p, chosen, std::memory_order_acq_rel))
    reason16.store(why, std::memory_order_relaxed);
  return *current16.load(std::memory_order_acquire);
}

void set_instruction_set(const std::string& name) {
  const bool automatic = name == "auto";
  const Choice choice = automatic ? Choice{&best_table(), nullptr} : named(name, kCall);
  const char* why = kCall;
  const Products16& products = automatic ? best_products(why) : take(choice, kCall);
  current.store(choice.table, std::memory_order_release);
  reason.store(automatic ? kBest : kCall, std::memory_order_relaxed);
  current16.store(&products, std::memory_order_release);
  reason16.store(why, std::memory_order_relaxed);
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

std::vector<std::string> bfloat16_paths_built() {
  std::vector<std::string> names;
  for (const Path& p : kPaths)
    if (p.products) names.emplace_back(p.products->name);
  for (std::string& name : instruction_sets_built()) names.push_back(std::move(name));
  return names;
}

std::vector<std::string> bfloat16_paths_usable() {
  std::vector<std::string> names;
  for (const Path& p : kPaths)
    if (p.products && p.usable()) names.emplace_back(p.products->name);
  for (std::string& name : instruction_sets_usable()) names.push_back(std::move(name));
  return names;
}

std::string bfloat16_path_reason() { return reason16.load(std::memory_order_relaxed); }

}  // namespace fp
