#include "tile_instructions.hpp"

#if defined(__linux__) && defined(__x86_64__)

#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kRows = 16, kRowBytes = 64;

// What LDTILECFG reads.
struct Configuration {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};
Configuration configuration;
alignas(64) uint32_t tiles[8][kRows][kRowBytes / 4];

struct Instruction {
  const uint8_t *begin, *end;
  int prefix, opcode;  // VEX.pp: 0 none, 1 66, 2 F3, 3 F2
  bool memory, strided;
  int reg, rm, vvvv;
  char* base;  // of the memory operand; displacement included
  int64_t index;

  [[noreturn]] void refuse(const char* why) const {
    std::fprintf(stderr, "tile instruction %02x %02x %02x %02x %02x: %s\n", begin[0], begin[1], begin[2], begin[3],
                 begin[4], why);
    std::abort();
  }
};

int64_t register_of(const ucontext_t& context, int number) {
  constexpr int kPlaces[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kPlaces[number]];
}

// VEX.128.0F38.W0 with a byte of ModRM, which is all there is among tile instructions.
Instruction decode(const ucontext_t& context) {
  Instruction i{};
  const auto* p = reinterpret_cast<const uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  i.begin = p;
  if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0) i.refuse("is none");
  const int x8 = p[1] & 0x40 ? 0 : 8, b8 = p[1] & 0x20 ? 0 : 8, mod = p[4] >> 6;
  i.vvvv = ~(p[2] >> 3) & 15;
  i.prefix = p[2] & 3;
  i.opcode = p[3];
  i.reg = p[4] >> 3 & 7;
  i.rm = p[4] & 7;
  i.memory = mod != 3;
  p += 5;
  if (i.memory) {
    int base = i.rm | b8, displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    bool absolute = false;
    if (i.rm == 4) {
      i.strided = true;
      const int sib = *p++, index = (sib >> 3 & 7) | x8;
      if (index != 4) i.index = register_of(context, index) * (int64_t(1) << (sib >> 6));
      base = (sib & 7) | b8;
      absolute = mod == 0 && (sib & 7) == 5;
    }
    const bool relative = mod == 0 && i.rm == 5;  // to the next instruction
    if (absolute || relative) displacement = 4;
    int64_t at = absolute || relative ? 0 : register_of(context, base);
    int32_t far = 0;
    if (displacement == 4) std::memcpy(&far, p, 4);
    at += displacement == 1 ? int8_t(*p) : far;
    p += displacement;
    if (relative) at += reinterpret_cast<int64_t>(p);
    i.base = reinterpret_cast<char*>(at);
  }
  i.end = p;
  return i;
}

void configure(const Instruction& i) {
  std::memcpy(&configuration, i.base + i.index, sizeof configuration);
  if (configuration.palette != 1 || configuration.start != 0) i.refuse("palette or start");
  for (int t = 0; t < 8; ++t) {
    const int rows = configuration.rows[t], bytes = configuration.bytes[t];
    if (rows > kRows || bytes > kRowBytes || (rows == 0) != (bytes == 0)) i.refuse("sizes of a tile");
  }
  std::memset(tiles, 0, sizeof tiles);
}

float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// The sums of even and of odd products, then both, then the tile's number; subnormal numbers count as zero.
void multiply(const Instruction& i) {
  const int c = i.reg, a = i.rm, b = i.vvvv;
  const auto& [palette, start, reserved, bytes, rows] = configuration;
  if (b > 7 || c == a || c == b || a == b) i.refuse("the same tile twice");
  if (rows[c] != rows[a] || bytes[c] != bytes[b] || bytes[a] != 4 * rows[b]) i.refuse("sizes that do not match");
  constexpr unsigned kQuiet = 0x1f80, kFlushToZero = 0x8000, kSubnormalsAreZero = 0x40, kHigh = 0xffff0000;
  _mm_setcsr(kQuiet | kFlushToZero | kSubnormalsAreZero);
  constexpr int kSums = kRowBytes / 4;
  for (int r = 0; r < rows[c]; ++r) {
    float even[kSums] = {}, odd[kSums] = {};
    for (int p = 0; p < rows[b]; ++p) {
      const uint32_t left = tiles[a][r][p], *right = tiles[b][p];
      const float left_even = from_bits(left << 16), left_odd = from_bits(left & kHigh);
      for (int j = 0; j < kSums; ++j) even[j] = __builtin_fmaf(left_even, from_bits(right[j] << 16), even[j]);
      for (int j = 0; j < kSums; ++j) odd[j] = __builtin_fmaf(left_odd, from_bits(right[j] & kHigh), odd[j]);
    }
    for (int j = 0; j < bytes[c] / 4; ++j) {
      const float sum = from_bits(tiles[c][r][j]) + (even[j] + odd[j]);
      std::memcpy(&tiles[c][r][j], &sum, 4);
    }
  }
}

void run(const Instruction& i) {
  constexpr int kNone = 0, k66 = 1, kF3 = 2, kF2 = 3;
  const bool configures = i.opcode == 0x49 && i.prefix == kNone;
  if (configures && i.memory) return configure(i);                        // ldtilecfg
  if (configures) return void(configuration = {});                        // tilerelease
  if (configuration.rows[i.reg] == 0) i.refuse("a tile without a size");  // its rows and bytes are none together
  auto& tile = tiles[i.reg];
  const int rows = configuration.rows[i.reg], bytes = configuration.bytes[i.reg];
  if (i.opcode == 0x49 && i.prefix == kF2 && !i.memory) {  // tilezero
    std::memset(tile, 0, sizeof tile);
  } else if (i.opcode == 0x4b && i.prefix == kF3 && i.strided) {  // tilestored
    for (int r = 0; r < rows; ++r) std::memcpy(i.base + r * i.index, tile[r], size_t(bytes));
  } else if (i.opcode == 0x4b && (i.prefix == kF2 || i.prefix == k66) && i.strided) {  // tileloadd, tileloaddt1
    std::memset(tile, 0, sizeof tile);
    for (int r = 0; r < rows; ++r) std::memcpy(tile[r], i.base + r * i.index, size_t(bytes));
  } else if (i.opcode == 0x5c && i.prefix == kF3 && !i.memory) {  // tdpbf16ps
    multiply(i);
  } else {
    i.refuse("unknown");
  }
}

void handle(int, siginfo_t*, void* state) {
  ucontext_t& context = *static_cast<ucontext_t*>(state);
  const Instruction i = decode(context);
  run(i);
  context.uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(i.end);
}

}  // namespace

const char* take_tile_instructions() {
  constexpr unsigned kTiles = 1u << 24 | 1u << 22;
  constexpr long kAskPermission = 0x1023, kTileData = 18;  // asm/prctl.h
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTiles) == kTiles &&
      syscall(SYS_arch_prctl, kAskPermission, kTileData) == 0)
    return "the processor";
  struct sigaction action{};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGILL, &action, nullptr) == 0 ? "the test, one by one" : nullptr;
}

#else

const char* take_tile_instructions() { return nullptr; }

#endif
