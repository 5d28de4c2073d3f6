// Layer: operator MYLINEARGRAD. See cpu_op.h.
#include "operators/mylineargrad/cpu_op.h"

#include <tuple>

#include "operators/mylineargrad/shapes.h"

namespace mylinear::my_linear_grad {
namespace {

using kernels::MatmulParams;
using kernels::RowSumParams;

// As for MYLINEAR's kernel: below this many multiplications the call itself does all the work.
constexpr double kMinParallelWork = 32768;

// The products that a node asks for, as one list of tiles.
struct Work {
  const kernels::MatmulKernel& matmul;
  const kernels::RowSumKernel& row_sum;
  MatmulParams grad_x{};
  MatmulParams grad_weight{};
  RowSumParams grad_bias{};
  size_t tiles[3] = {};

  size_t num_tiles() const { return tiles[0] + tiles[1] + tiles[2]; }

  // Calls run(first, last) with what [first, last) of all tiles has of part `part`.
  template <class Run>
  void run_part(size_t part, size_t first, size_t last, const Run& run) const {
    size_t begin = 0;
    for (size_t i = 0; i < part; ++i) begin += tiles[i];
    const size_t end = begin + tiles[part];
    const size_t from = first > begin ? first : begin, to = last < end ? last : end;
    if (from < to) run(from - begin, to - begin);
  }

  void run(size_t first, size_t last) const {
    run_part(0, first, last, [this](size_t from, size_t to) { matmul.run(grad_x, from, to); });
    run_part(1, first, last, [this](size_t from, size_t to) { matmul.run(grad_weight, from, to); });
    run_part(2, first, last, [this](size_t from, size_t to) { row_sum.run(grad_bias, from, to); });
  }
};

}  // namespace

CpuKernel::CpuKernel(const ort::KernelInfo& info, const CpuKernels& kernels)
    : matmul_(kernels.matmul[static_cast<int>(kernel_type(info.input_type(kX)))]),
      row_sum_(kernels.row_sum[static_cast<int>(kernel_type(info.input_type(kX)))]) {
  check_node(info);
}

void CpuKernel::compute(const ort::Call& call) const {
  Inputs inputs;
  read_inputs(call, &inputs);
  const Outputs outputs = make_outputs(call, inputs);
  const auto [M, N, K] = std::tuple(inputs.M, inputs.N, inputs.K);
  const void* grad = inputs.grad.data;

  Work work{matmul_, row_sum_};
  size_t num_products = 0;
  if (outputs.grad_x) {  // G W
    work.grad_x = {M, K, N, grad, N, 1, inputs.weight.data, outputs.grad_x.data};
    work.tiles[0] = matmul_.num_tiles(work.grad_x);
    ++num_products;
  }
  if (outputs.grad_weight) {  // G^T X
    work.grad_weight = {N, K, M, grad, 1, N, inputs.x.data, outputs.grad_weight.data};
    work.tiles[1] = matmul_.num_tiles(work.grad_weight);
    ++num_products;
  }
  if (outputs.grad_bias) {
    work.grad_bias = {M, N, grad, outputs.grad_bias.data};
    work.tiles[2] = row_sum_.num_tiles(work.grad_bias);
  }
  const size_t tiles = work.num_tiles();
  const double multiplications = static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
  const double size = static_cast<double>(num_products) * multiplications +
                      (outputs.grad_bias ? static_cast<double>(M) * static_cast<double>(N) : 0.0);
  const size_t chunks = chunks_.of(tiles, size);
  if (chunks <= 1 || size < kMinParallelWork) return work.run(0, tiles);
  call.parallel_for(tiles, chunks, [&](size_t first, size_t last) { work.run(first, last); });
}

}  // namespace mylinear::my_linear_grad
