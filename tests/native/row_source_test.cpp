// network/row_source.hpp: which matrices products read where they lie, and that the others are gathered.
// tests/test_network_rules.py compiles and runs this file, with the source it tests.
#include "network/row_source.cpp"

#include <cstdio>
#include <vector>

#include "checks.hpp"

namespace {

using checks::fail;
using fp::DenseSource;
using fp::Element;
using fp::RowsInPlace;

struct Case {
  const char* name;
  Element element;
  int64_t cols, row_bytes, col_bytes;
  int64_t offset;  // of the first element, in bytes
  bool in_place;
};

constexpr Case cases[] = {
    {"side by side", Element::f32, 5, 20, 4, 0, true},
    {"apart", Element::f32, 5, 36, 4, 8, true},
    {"a column", Element::f32, 1, 36, 4, 8, true},
    {"misaligned", Element::f32, 5, 20, 4, 1, false},
    {"misaligned from row to row", Element::f32, 5, 22, 4, 0, false},
    {"elements apart", Element::f32, 5, 40, 8, 0, false},
    {"elements backwards", Element::f32, 5, 20, -4, 16, false},
    {"by columns", Element::f32, 5, 4, 36, 0, false},
    {"one row again and again", Element::f32, 5, 0, 4, 0, false},
    {"1 KiB apart", Element::f32, 5, 1024, 4, 0, false},
    {"3 KiB apart", Element::f32, 5, 3072, 4, 0, false},
    {"whole numbers", Element::i32, 5, 20, 4, 0, false},
    {"of the other type", Element::f64, 5, 40, 8, 0, false},
};

}  // namespace

int main() {
  constexpr int64_t rows = 3;
  alignas(64) static char memory[rows * 3072 + 64];
  for (std::size_t i = 0; i < sizeof memory; ++i) memory[i] = static_cast<char>(i % 61 + 1);
  for (const Case& c : cases) {
    DenseSource source;
    source.rows = rows;
    source.cols = c.cols;
    source.data = memory + c.offset;
    source.element = c.element;
    source.row_bytes = c.row_bytes;
    source.col_bytes = c.col_bytes;
    RowsInPlace<float> found{};
    source.find(found);
    if ((found.data != nullptr) != c.in_place) fail("%s: in place: %d", c.name, found.data != nullptr);
    RowsInPlace<double> other{};
    source.find(other);
    if ((other.data != nullptr) != (c.element == Element::f64)) fail("%s: in place as double", c.name);
    std::vector<float> gathered(static_cast<std::size_t>(rows * c.cols));
    source.gather(nullptr, 0, rows, gathered.data(), c.cols);
    for (int64_t i = 0; found.data && i < rows; ++i)
      for (int64_t j = 0; j < c.cols; ++j)
        if (found.data[i * found.row + j] != gathered[static_cast<std::size_t>(i * c.cols + j)])
          fail("%s: row %lld", c.name, static_cast<long long>(i));
    fp::SideBySide several;
    several.append(source);
    several.find(found);
    if (found.data) fail("%s: side by side with others, and in place", c.name);
  }
  std::printf("%d failures\n", checks::failures);
  return checks::failures ? 1 : 0;
}
