// Tests of the bfloat16 products.
#pragma once

#include <vector>

#include "kernels/bf16.hpp"

// Every path against float64 sums over rounded operands; the widened ones also against each other, bit for bit,
// and those of tiles.
void test_bf16(const std::vector<const fp::Products16*>& paths);
// What a network keeps packed of a batch.
void test_mixed(const fp::Products16& products);
