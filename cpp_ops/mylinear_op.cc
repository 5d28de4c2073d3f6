// Layer: ORT op. Reads inputs, checks shapes, asks for memory, and hands the numbers to kernels/.
//
// Every function that ORT calls is one of the callbacks at the end: it returns a status and lets no exception
// out.
#include "mylinear_op.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "contract.h"
#include "ort_tensor.h"
#include "prefetch_trial.h"
#include "shape_check.h"

namespace mylinear {
namespace {

using abi::ONNXTensorElementDataType;
using abi::OrtKernelContext;
using abi::OrtKernelInfo;
using abi::OrtStatus;
using abi::OrtValue;
using kernels::ElementType;
using kernels::GemmKernel;
using kernels::GemmParams;

// Below this many multiplications the call itself does all the work: handing work to the pool and waiting for
// it takes 0.3 to 1 microsecond, in which one core does about this many.
constexpr double kMinParallelWork = 32768;
// ORT does not tell the number of threads, so the work is cut finer than the machine has cores; ParallelFor
// costs 0.4 to 1 microsecond for 64 items and much more beyond.
constexpr size_t kMaxChunks = 64;
constexpr size_t kChunksPerCore = 4;

// A weight below this size is taken for near without a trial: the call is over before a prefetch tells.
constexpr size_t kMinTrialBytes = 128 * 1024;
// Calls of at most this many rows are bound by how fast the weight comes, those of more by multiplying.
constexpr size_t kMaxTrialRows = 4;

constexpr ONNXTensorElementDataType kOnnxTypes[kernels::kNumElementTypes] = {
    abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
    abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16};

// ORT has matched the model's types with this kernel's already; this is for a runtime that did not.
void check_type(const TensorView& view, const GemmKernel& kernel, const char* argument) {
  const int index = static_cast<int>(kernel.type);
  if (view.type == kOnnxTypes[index]) return;
  const std::string rule = std::string(kernels::kElementTypeNames[index]) + " (the kernel that ORT chose)";
  throw ContractError(message(argument, rule, "ONNX element type " + std::to_string(view.type)));
}

// ---- the kernel
// -----------------------------------------------------------------------------------------------

// The tiles of one call, cut into `chunks` contiguous pieces for the pool.
struct ParallelWork {
  const GemmKernel* kernel;
  const GemmParams* params;
  size_t tiles;
  size_t chunks;
  std::atomic<bool> has_failed{false};

  static void run_chunk(void* data, size_t chunk) {
    auto* work = static_cast<ParallelWork*>(data);
    // An exception that escapes into a thread of the pool kills the process. Kernels throw none; it stays so.
    try {
      const size_t first = work->tiles / work->chunks * chunk + smaller(work->tiles % work->chunks, chunk);
      const size_t length = work->tiles / work->chunks + (chunk < work->tiles % work->chunks);
      work->kernel->run(*work->params, first, first + length);
    } catch (...) {
      work->has_failed.store(true, std::memory_order_relaxed);
    }
  }

  static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
};

// One node of one session. `compute` may run on any number of threads at once: it changes nothing but
// trials_ and weight_can_dot_.
class Kernel {
 public:
  Kernel(const MyLinearOp& op, const OrtKernelInfo* info)
      : op_(op), runtime_(op.runtime), kernel_(*op.kernel) {
    const abi::OrtApi* api = runtime_.api;
    check_attributes(api, info);
    size_t num_inputs = 0;
    check(api->KernelInfo_GetInputCount(info, &num_inputs));
    has_bias_input_ = num_inputs > kBias;

    has_constant_weight_ = read_constant(op_, info, kWeight, contract::kWeight, &weight_);
    has_constant_bias_ = has_bias_input_ && read_constant(op_, info, kBias, contract::kBias, &bias_);
    check_shapes(nullptr, has_constant_weight_ ? &weight_.shape : nullptr,
                 has_constant_bias_ ? &bias_.shape : nullptr);
    const size_t cores = std::thread::hardware_concurrency();
    max_chunks_ = cores && cores * kChunksPerCore < kMaxChunks ? cores * kChunksPerCore : kMaxChunks;
  }

  const abi::OrtApi* api() const { return runtime_.api; }

  void compute(OrtKernelContext* context) const {
    const abi::OrtApi* api = runtime_.api;
    TensorView x, own_weight, own_bias;
    read_input(op_, context, kX, contract::kX, &x);
    if (!has_constant_weight_) read_input(op_, context, kWeight, contract::kWeight, &own_weight);
    const TensorView& weight = has_constant_weight_ ? weight_ : own_weight;
    const TensorView* bias = has_constant_bias_ ? &bias_ : nullptr;
    if (has_bias_input_ && !has_constant_bias_ &&
        read_input(op_, context, kBias, contract::kBias, &own_bias)) {
      bias = &own_bias;
    }
    check_shapes(&x.shape, &weight.shape, bias ? &bias->shape : nullptr);
    const size_t element_size = kernels::kElementSizes[static_cast<int>(kernel_.type)];
    const GemmSizes sizes = gemm_sizes(x.shape, weight.shape, element_size);

    OrtValue* y = make_output(api, context, x, weight);
    if (sizes.M == 0 || sizes.N == 0) return;
    void* y_data = nullptr;
    check(api->GetTensorMutableData(y, &y_data));

    GemmParams params{sizes.M, sizes.N, sizes.K, x.data, weight.data, bias ? bias->data : nullptr, y_data};
    if (has_constant_weight_ && kernel_.can_dot) params.w_can_dot = weight_can_dot(sizes.N * sizes.K);
    if (sizes.N * sizes.K * element_size < kMinTrialBytes) {
      params.is_near = true;
    } else if (sizes.M <= kMaxTrialRows) {
      return run_on_trial(context, params);
    }
    run(context, params);
  }

 private:
  // Looked up in the first call and not when the session is made, which should not read all of the weights.
  bool weight_can_dot(size_t size) const {
    Answer answer = weight_can_dot_.load(std::memory_order_relaxed);
    if (answer == Answer::kUnknown) {
      answer = kernel_.can_dot(weight_.data, size) ? Answer::kYes : Answer::kNo;
      weight_can_dot_.store(answer, std::memory_order_relaxed);
    }
    return answer == Answer::kYes;
  }

  void run_on_trial(const OrtKernelContext* context, GemmParams params) const {
    using Clock = std::chrono::steady_clock;
    PrefetchTrial& trial = trials_[params.M - 1];
    const PrefetchTrial::Choice choice = trial.choose();
    params.is_near = choice.is_near;
    if (!choice.is_timed) return run(context, params);
    const Clock::time_point start = Clock::now();
    run(context, params);
    const auto duration = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
    trial.record(choice.is_near, static_cast<uint64_t>(duration.count()));
  }

  void run(const OrtKernelContext* context, const GemmParams& params) const {
    const size_t tiles = kernel_.num_tiles(params);
    const double work =
        static_cast<double>(params.M) * static_cast<double>(params.N) * static_cast<double>(params.K);
    const size_t chunks = tiles < max_chunks_ ? tiles : max_chunks_;
    if (chunks <= 1 || work < kMinParallelWork) return kernel_.run(params, 0, tiles);
    ParallelWork parallel{&kernel_, &params, tiles, chunks};
    check(runtime_.api->KernelContext_ParallelFor(context, ParallelWork::run_chunk, chunks, 0, &parallel));
    if (parallel.has_failed) throw std::runtime_error("MYLINEAR: a kernel failed in the thread pool");
  }

  enum class Answer { kUnknown, kNo, kYes };

  const MyLinearOp& op_;  // which outlives every session
  Runtime runtime_;
  const GemmKernel& kernel_;
  bool has_bias_input_ = false;
  bool has_constant_weight_ = false;
  bool has_constant_bias_ = false;
  TensorView weight_;
  TensorView bias_;
  size_t max_chunks_ = 1;
  mutable std::atomic<Answer> weight_can_dot_{Answer::kUnknown};
  mutable PrefetchTrial trials_[kMaxTrialRows];  // by the number of rows, since a time depends on it
};

// ---- shape inference
// ------------------------------------------------------------------------------------------

// Y has the type of X and its shape, with the last dimension replaced by out_features, from W or else from B.
// A dimension that has neither number nor name cannot be stated through this ABI (ORT would take -1 for a
// number, and refuse the nodes behind), so then the shape is left unknown. Contradictions are left to the
// kernel: ORT drops an error from here without a word.
void infer_output_shape(const abi::OrtApi* api, const abi::OrtShapeInferContext* context) {
  size_t num_inputs = 0;
  check(api->ShapeInferContext_GetInputCount(context, &num_inputs));
  if (num_inputs < contract::kNumRequired) return;
  InferredInput y(api, context, kX);
  if (y.rank == 0) return;
  const size_t last = y.rank - 1;
  y.dims[last] = -1;
  y.names[last] = "";
  for (size_t index = kWeight; index < num_inputs; ++index) {
    const InferredInput input(api, context, index);
    if (input.rank != (index == kWeight ? 2u : 1u) || !input.is_known(0)) continue;
    y.dims[last] = input.dims[0];
    y.names[last] = input.names[0];
    break;
  }
  for (size_t axis = 0; axis < y.rank; ++axis) {
    if (!y.is_known(axis)) return;
  }
  set_inferred_output(api, context, 0, y.type, y.dims, y.names, y.rank);
}

// ---- callbacks
// ------------------------------------------------------------------------------------------------

const MyLinearOp& self(const abi::OrtCustomOp* op) { return *static_cast<const MyLinearOp*>(op); }

ONNXTensorElementDataType element_type_of(const abi::OrtCustomOp* op, size_t) {
  return kOnnxTypes[static_cast<int>(self(op).kernel->type)];
}

abi::OrtCustomOpInputOutputCharacteristic input_characteristic(const abi::OrtCustomOp*, size_t index) {
  return index < contract::kNumRequired ? abi::INPUT_OUTPUT_REQUIRED : abi::INPUT_OUTPUT_OPTIONAL;
}

OrtStatus* create_kernel(const abi::OrtCustomOp* op, const abi::OrtApi*, const OrtKernelInfo* info,
                         void** out) {
  return guarded(self(op).runtime.api, contract::kName, [&] { *out = new Kernel(self(op), info); });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const Kernel*>(kernel);
  return guarded(self.api(), contract::kName, [&] { self.compute(context); });
}

OrtStatus* infer_shape(const abi::OrtCustomOp* op, abi::OrtShapeInferContext* context) {
  const abi::OrtApi* api = self(op).runtime.api;
  return guarded(api, contract::kName, [&] { infer_output_shape(api, context); });
}

}  // namespace

// Version 1 has no attribute. The ABI cannot list those of a node; these are the ones that a node made from
// a Gemm could carry over, and that would change what is computed.
void check_attributes(const abi::OrtApi* api, const abi::OrtKernelInfo* info) {
  std::string present;
  for (const char* name : {"alpha", "beta", "transA", "transB"}) {
    float number = 0;
    int64_t integer = 0;
    OrtStatus* as_float = api->KernelInfoGetAttribute_float(info, name, &number);
    OrtStatus* as_integer = api->KernelInfoGetAttribute_int64(info, name, &integer);
    if (!as_float || !as_integer) present += (present.empty() ? "" : ", ") + std::string(name);
    if (as_float) api->ReleaseStatus(as_float);
    if (as_integer) api->ReleaseStatus(as_integer);
  }
  if (!present.empty()) throw ContractError(message("the attributes", "none", present));
}

bool read_constant(const MyLinearOp& op, const OrtKernelInfo* info, size_t index, const char* argument,
                   TensorView* out) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(op.runtime.api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  if (!is_constant || !value) return false;
  out->read(op.runtime, value);
  check_type(*out, *op.kernel, argument);
  return true;
}

bool read_input(const MyLinearOp& op, const OrtKernelContext* context, size_t index, const char* argument,
                TensorView* out) {
  const OrtValue* value = nullptr;
  check(op.runtime.api->KernelContext_GetInput(context, index, &value));
  if (!value && index < contract::kNumRequired) throw ContractError(message(argument, "given", "nothing"));
  if (!value) return false;
  out->read(op.runtime, value);
  check_type(*out, *op.kernel, argument);
  return true;
}

OrtValue* make_output(const abi::OrtApi* api, OrtKernelContext* context, const TensorView& x,
                      const TensorView& weight) {
  DimBuffer y_dims;
  int64_t* dims = y_dims.resize(x.shape.rank);
  for (size_t i = 0; i + 1 < x.shape.rank; ++i) dims[i] = x.shape.data[i];
  dims[x.shape.rank - 1] = weight.shape.data[0];
  OrtValue* y = nullptr;
  check(api->KernelContext_GetOutput(context, 0, dims, x.shape.rank, &y));
  return y;
}

void init_op(MyLinearOp* op, const Runtime& runtime, const kernels::Isa& isa, ElementType type) {
  *op = MyLinearOp{};
  op->runtime = runtime;
  op->kernel = &isa.kernels[static_cast<int>(type)];
  op->version = runtime.version < abi::kCustomOpVersion ? runtime.version : abi::kCustomOpVersion;
  op->GetName = [](const abi::OrtCustomOp*) { return contract::kName; };
  op->GetExecutionProviderType = [](const abi::OrtCustomOp*) { return "CPUExecutionProvider"; };
  op->GetInputTypeCount = [](const abi::OrtCustomOp*) -> size_t { return contract::kNumInputs; };
  op->GetInputType = element_type_of;
  op->GetInputCharacteristic = input_characteristic;
  op->GetInputMemoryType = [](const abi::OrtCustomOp*, size_t) { return abi::OrtMemTypeDefault; };
  op->GetOutputTypeCount = [](const abi::OrtCustomOp*) -> size_t { return contract::kNumOutputs; };
  op->GetOutputType = element_type_of;
  op->GetOutputCharacteristic = [](const abi::OrtCustomOp*, size_t) { return abi::INPUT_OUTPUT_REQUIRED; };
  op->GetVariadicInputMinArity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetVariadicInputHomogeneity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetVariadicOutputMinArity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetVariadicOutputHomogeneity = [](const abi::OrtCustomOp*) { return 0; };
  op->GetStartVersion = [](const abi::OrtCustomOp*) { return contract::kSinceVersion; };
  op->GetEndVersion = [](const abi::OrtCustomOp*) { return contract::kSinceVersion; };
  op->CreateKernelV2 = create_kernel;
  op->KernelComputeV2 = compute;
  op->KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  if (runtime.version >= abi::kShapeInferenceIsSafeSince) op->InferOutputShapeFn = infer_shape;
}

}  // namespace mylinear
