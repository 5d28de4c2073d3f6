// What of the CUDA backend needs no CUDA: how a row-major product is said in columns, and the cache of plans.
#include <array>
#include <memory>
#include <vector>

#include "check.h"
#include "cuda/column_major.h"
#include "cuda/lru_cache.h"

namespace mylinear::cuda {
namespace {

// cuBLASLt's definition, word for word: D = op(A) op(B) + bias, every matrix column-major, bias along the
// rows of D.
struct Blas {
  static double at(const std::vector<double>& matrix, const ColumnMajor& m, uint64_t row, uint64_t column) {
    CHECK(row < m.rows && column < m.columns && m.leading >= static_cast<int64_t>(m.rows));
    return matrix.at(row + column * static_cast<uint64_t>(m.leading));
  }
  static double op(const std::vector<double>& matrix, const ColumnMajor& m, uint64_t row, uint64_t column) {
    return m.is_transposed ? at(matrix, m, column, row) : at(matrix, m, row, column);
  }
  static void matmul(const ColumnMajorProduct& p, const std::vector<double>& a, const std::vector<double>& b,
                     const std::vector<double>& bias, std::vector<double>* d) {
    const uint64_t m = p.a.is_transposed ? p.a.columns : p.a.rows;
    const uint64_t k = p.a.is_transposed ? p.a.rows : p.a.columns;
    const uint64_t n = p.b.is_transposed ? p.b.rows : p.b.columns;
    CHECK((p.b.is_transposed ? p.b.columns : p.b.rows) == k && p.d.rows == m && p.d.columns == n);
    CHECK(bias.size() == m);
    for (uint64_t i = 0; i < m; ++i) {
      for (uint64_t j = 0; j < n; ++j) {
        double sum = bias[i];
        for (uint64_t l = 0; l < k; ++l) sum += op(a, p.a, i, l) * op(b, p.b, l, j);
        d->at(i + j * static_cast<uint64_t>(p.d.leading)) = sum;
      }
    }
  }
};

void test_columns() {
  const std::array<uint64_t, 3> sizes[] = {{1, 1, 1}, {2, 3, 4}, {4, 3, 2}, {5, 1, 7},
                                           {1, 6, 3}, {3, 3, 3}, {7, 5, 1}};
  for (const auto& [M, N, K] : sizes) {
    std::vector<double> x(M * K), w(N * K), bias(N), y(M * N, -1);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i + 1);
    for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<double>(3 * i % 11) - 4;
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = 100.0 * static_cast<double>(i);
    for (const bool x_is_turned : {false, true}) {
      for (const bool w_is_turned : {false, true}) {
        Blas::matmul(column_major(M, N, K, x_is_turned, w_is_turned), w, x, bias, &y);
        for (uint64_t m = 0; m < M; ++m) {
          for (uint64_t n = 0; n < N; ++n) {
            double sum = bias[n];
            for (uint64_t k = 0; k < K; ++k) {
              sum += x[x_is_turned ? k * M + m : m * K + k] * w[w_is_turned ? k * N + n : n * K + k];
            }
            CHECK(y[m * N + n] == sum);
          }
        }
      }
    }
  }
}

void test_the_cache_forgets_what_was_not_asked_for_longest() {
  LruCache<int, std::shared_ptr<int>, std::hash<int>> cache(3);
  CHECK(!cache.find(1));
  for (int i = 1; i <= 3; ++i) cache.put(i, std::make_shared<int>(10 * i));
  const std::shared_ptr<int> kept = cache.find(1);
  CHECK(kept && *kept == 10);
  cache.put(4, std::make_shared<int>(40));
  CHECK(cache.size() == 3 && !cache.find(2) && cache.find(1) && cache.find(3) && cache.find(4));
  cache.put(1, std::make_shared<int>(11));  // replaced; who has the old one keeps it
  CHECK(cache.size() == 3 && *cache.find(1) == 11 && *kept == 10);
  for (int i = 100; i < 1100; ++i) cache.put(i, std::make_shared<int>(i));
  CHECK(cache.size() == 3 && *kept == 10 && *cache.find(1099) == 1099 && !cache.find(1096));
}

}  // namespace
}  // namespace mylinear::cuda

int main() {
  mylinear::cuda::test_columns();
  mylinear::cuda::test_the_cache_forgets_what_was_not_asked_for_longest();
  return report();
}
