// Layer: ORT, any operator. Our own declaration of the part of ONNX Runtime's C ABI that this library uses.
//
// Long because it is one table: each line has its place in the ABI.
//
// The pip wheel of onnxruntime ships no headers, and the ABI is append-only: a function keeps its slot for
// ever. So the slots, layouts and enums below are all that is needed to build one binary for every
// onnxruntime from 1.17 on. `tests/native/test_abi.py` compares each number with tables of the released ABI,
// and with the official headers where they are at hand. The types are in a namespace, so both can be seen by
// one translation unit.
//
// Function pointers follow the official names and argument order;
// all functions are thread-safe on distinct objects, and none throws.
#ifndef MYLINEAR_ORT_ABI_H_
#define MYLINEAR_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

namespace mylinear::abi {

// The oldest API with everything that this library cannot do without (shape inference, ParallelFor).
inline constexpr uint32_t kMinApiVersion = 17;
// The newest API whose functions are declared below; a newer runtime is asked for this one.
inline constexpr uint32_t kMaxApiVersion = 25;
// OrtCustomOp has had no new field since this API.
inline constexpr uint32_t kCustomOpVersion = 18;
// Runtimes before this one crash in shape inference on an empty optional input, before they call us.
inline constexpr uint32_t kShapeInferenceIsSafeSince = 24;

struct OrtCustomOp;
struct OrtStatus;
struct OrtValue;
struct OrtOpAttr;
struct OrtAllocator;
struct OrtKernelInfo;
struct OrtMemoryInfo;
struct OrtKernelContext;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtShapeInferContext;
struct OrtTensorTypeAndShapeInfo;

enum OrtErrorCode : int32_t {
  ORT_OK = 0,
  ORT_FAIL = 1,
  ORT_INVALID_ARGUMENT = 2,
  ORT_RUNTIME_EXCEPTION = 6,
  ORT_NOT_IMPLEMENTED = 9,
};

enum ONNXTensorElementDataType : int32_t {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16 = 4,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16 = 5,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL = 9,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE = 11,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32 = 12,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64 = 13,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
};

enum OrtCustomOpInputOutputCharacteristic : int32_t {
  INPUT_OUTPUT_REQUIRED = 0,
  INPUT_OUTPUT_OPTIONAL = 1,
};

enum OrtOpAttrType : int32_t {
  ORT_OP_ATTR_UNDEFINED = 0,
  ORT_OP_ATTR_INT = 1,
  ORT_OP_ATTR_INTS = 2,
  ORT_OP_ATTR_FLOAT = 3,
  ORT_OP_ATTR_FLOATS = 4,
  ORT_OP_ATTR_STRING = 5,
};

enum OrtMemType : int32_t {
  OrtMemTypeDefault = 0,
};

struct OrtApi {
  OrtStatus* (*CreateStatus)(OrtErrorCode code, const char* message);
  void* unused_1_[1];
  const char* (*GetErrorMessage)(const OrtStatus* status);
  void* unused_3_[23];
  OrtStatus* (*CreateCustomOpDomain)(const char* domain, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  void* unused_29_[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  void* unused_52_[5];
  OrtStatus* (*CreateTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*SetTensorElementType)(OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType type);
  OrtStatus* (*SetDimensions)(OrtTensorTypeAndShapeInfo* info, const int64_t* dims, size_t rank);
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType* out);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t rank);
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank);
  void* unused_64_[1];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** out);
  void* unused_66_[6];
  OrtStatus* (*MemoryInfoGetId)(const OrtMemoryInfo* info, int* out);
  void* unused_73_[3];
  OrtStatus* (*AllocatorFree)(OrtAllocator* allocator, void* memory);
  void* unused_77_[1];
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator** out);  // never released
  void* unused_79_[6];
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo* info, const char* name, float* out);
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* out);
  OrtStatus* (*KernelInfoGetAttribute_string)(const OrtKernelInfo* info, const char* name, char* out,
                                              size_t* size);
  void* unused_88_[2];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index, const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* dims,
                                        size_t rank, OrtValue** out);
  void* unused_92_[1];
  void (*ReleaseStatus)(OrtStatus* status);
  void* unused_94_[2];
  void (*ReleaseValue)(OrtValue* value);
  void* unused_97_[2];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  void* unused_100_[1];
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);
  void* unused_102_[30];
  void (*ReleaseAllocator)(OrtAllocator* allocator);
  void* unused_133_[29];
  OrtStatus* (*KernelInfoGetAttributeArray_float)(const OrtKernelInfo* info, const char* name, float* out,
                                                  size_t* size);
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name, int64_t* out,
                                                  size_t* size);
  void* unused_164_[29];
  OrtStatus* (*KernelContext_GetGPUComputeStream)(const OrtKernelContext* context, void** out);
  OrtStatus* (*GetTensorMemoryInfo)(const OrtValue* value, const OrtMemoryInfo** out);
  void* unused_195_[35];
  OrtStatus* (*KernelInfo_GetInputCount)(const OrtKernelInfo* info, size_t* out);
  void* unused_231_[5];
  OrtStatus* (*KernelInfoGetAttribute_tensor)(const OrtKernelInfo* info, const char* name,
                                              OrtAllocator* allocator, OrtValue** out);
  OrtStatus* (*HasSessionConfigEntry)(const OrtSessionOptions* options, const char* key, int* out);
  OrtStatus* (*GetSessionConfigEntry)(const OrtSessionOptions* options, const char* key, char* out,
                                      size_t* size);
  void* unused_239_[10];
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, size_t index, int* is_constant,
                                                  const OrtValue** out);
  void* unused_250_[15];
  OrtStatus* (*KernelContext_GetResource)(const OrtKernelContext* context, int version, int id, void** out);
  void* unused_266_[1];
  OrtStatus* (*ShapeInferContext_GetInputCount)(const OrtShapeInferContext* context, size_t* out);
  OrtStatus* (*ShapeInferContext_GetInputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                    OrtTensorTypeAndShapeInfo** out);
  OrtStatus* (*ShapeInferContext_GetAttribute)(const OrtShapeInferContext* context, const char* name,
                                               const OrtOpAttr** out);
  OrtStatus* (*ShapeInferContext_SetOutputTypeShape)(const OrtShapeInferContext* context, size_t index,
                                                     const OrtTensorTypeAndShapeInfo* info);
  OrtStatus* (*SetSymbolicDimensions)(OrtTensorTypeAndShapeInfo* info, const char** names, size_t rank);
  OrtStatus* (*ReadOpAttr)(const OrtOpAttr* attribute, OrtOpAttrType type, void* out, size_t nbytes,
                           size_t* needed);
  void* unused_273_[1];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*body)(void*, size_t),
                                          size_t total, size_t num_batch, void* data);
  void* unused_275_[2];
  // since API 18: the tables of older runtimes end before them
  OrtStatus* (*KernelContext_GetScratchBuffer)(const OrtKernelContext* context, const OrtMemoryInfo* info,
                                               size_t nbytes, void** out);
  OrtStatus* (*KernelInfoGetAllocator)(const OrtKernelInfo* info, OrtMemType type, OrtAllocator** out);
  void* unused_279_[99];
  // since API 23: the tables of older runtimes end before it
  OrtStatus* (*GetTensorData)(const OrtValue* value, const void** out);
  void* unused_379_[35];
  // since API 24: the tables of older runtimes end before it
  OrtStatus* (*GetTensorElementTypeAndShapeDataReference)(const OrtValue* value,
                                                          ONNXTensorElementDataType* type,
                                                          const int64_t** dims, size_t* rank);
  void* unused_415_[2];
  // since API 25: the tables of older runtimes end before it
  OrtStatus* (*KernelInfoGetAttributeArray_string)(const OrtKernelInfo* info, const char* name,
                                                   OrtAllocator* allocator, char*** out, size_t* size);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// ORT reads the fields up to those of `version`; an op must outlive every session that uses it.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info);
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void (*KernelCompute)(void* kernel, OrtKernelContext* context);
  void (*KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);
  OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp* op);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp* op);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp* op);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp* op, OrtShapeInferContext* context);
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

// clang-format off
// X(slot, first API with it, member): what the tests compare with the tables.
#define MYLINEAR_ORT_API_SLOTS(X) \
  X(0, 1, CreateStatus) \
  X(2, 1, GetErrorMessage) \
  X(26, 1, CreateCustomOpDomain) \
  X(27, 1, CustomOpDomain_Add) \
  X(28, 1, AddCustomOpDomain) \
  X(51, 1, GetTensorMutableData) \
  X(57, 1, CreateTensorTypeAndShapeInfo) \
  X(58, 1, SetTensorElementType) \
  X(59, 1, SetDimensions) \
  X(60, 1, GetTensorElementType) \
  X(61, 1, GetDimensionsCount) \
  X(62, 1, GetDimensions) \
  X(63, 1, GetSymbolicDimensions) \
  X(65, 1, GetTensorTypeAndShape) \
  X(72, 1, MemoryInfoGetId) \
  X(76, 1, AllocatorFree) \
  X(78, 1, GetAllocatorWithDefaultOptions) \
  X(85, 1, KernelInfoGetAttribute_float) \
  X(86, 1, KernelInfoGetAttribute_int64) \
  X(87, 1, KernelInfoGetAttribute_string) \
  X(90, 1, KernelContext_GetInput) \
  X(91, 1, KernelContext_GetOutput) \
  X(93, 1, ReleaseStatus) \
  X(96, 1, ReleaseValue) \
  X(99, 1, ReleaseTensorTypeAndShapeInfo) \
  X(101, 1, ReleaseCustomOpDomain) \
  X(132, 5, ReleaseAllocator) \
  X(162, 8, KernelInfoGetAttributeArray_float) \
  X(163, 8, KernelInfoGetAttributeArray_int64) \
  X(193, 10, KernelContext_GetGPUComputeStream) \
  X(194, 10, GetTensorMemoryInfo) \
  X(230, 14, KernelInfo_GetInputCount) \
  X(236, 14, KernelInfoGetAttribute_tensor) \
  X(237, 14, HasSessionConfigEntry) \
  X(238, 14, GetSessionConfigEntry) \
  X(249, 15, KernelInfoGetConstantInput_tensor) \
  X(265, 16, KernelContext_GetResource) \
  X(267, 17, ShapeInferContext_GetInputCount) \
  X(268, 17, ShapeInferContext_GetInputTypeShape) \
  X(269, 17, ShapeInferContext_GetAttribute) \
  X(270, 17, ShapeInferContext_SetOutputTypeShape) \
  X(271, 17, SetSymbolicDimensions) \
  X(272, 17, ReadOpAttr) \
  X(274, 17, KernelContext_ParallelFor) \
  X(277, 18, KernelContext_GetScratchBuffer) \
  X(278, 18, KernelInfoGetAllocator) \
  X(378, 23, GetTensorData) \
  X(414, 24, GetTensorElementTypeAndShapeDataReference) \
  X(417, 25, KernelInfoGetAttributeArray_string)

#define MYLINEAR_ORT_CUSTOM_OP_FIELDS(X) \
  X(0, 1, version) \
  X(1, 1, CreateKernel) \
  X(2, 1, GetName) \
  X(3, 1, GetExecutionProviderType) \
  X(4, 1, GetInputType) \
  X(5, 1, GetInputTypeCount) \
  X(6, 1, GetOutputType) \
  X(7, 1, GetOutputTypeCount) \
  X(8, 1, KernelCompute) \
  X(9, 1, KernelDestroy) \
  X(10, 8, GetInputCharacteristic) \
  X(11, 8, GetOutputCharacteristic) \
  X(12, 13, GetInputMemoryType) \
  X(13, 14, GetVariadicInputMinArity) \
  X(14, 14, GetVariadicInputHomogeneity) \
  X(15, 14, GetVariadicOutputMinArity) \
  X(16, 14, GetVariadicOutputHomogeneity) \
  X(17, 16, CreateKernelV2) \
  X(18, 16, KernelComputeV2) \
  X(19, 17, InferOutputShapeFn) \
  X(20, 17, GetStartVersion) \
  X(21, 17, GetEndVersion) \
  X(22, 18, GetMayInplace) \
  X(23, 18, ReleaseMayInplace) \
  X(24, 18, GetAliasMap) \
  X(25, 18, ReleaseAliasMap)
// clang-format on

#define MYLINEAR_CHECK_SLOT(slot, since, member) \
  static_assert(offsetof(OrtApi, member) == (slot) * sizeof(void*), #member " is in the wrong slot");
MYLINEAR_ORT_API_SLOTS(MYLINEAR_CHECK_SLOT)
#undef MYLINEAR_CHECK_SLOT

#define MYLINEAR_CHECK_FIELD(index, since, member) \
  static_assert(offsetof(OrtCustomOp, member) == (index) * sizeof(void*), #member " is misplaced");
MYLINEAR_ORT_CUSTOM_OP_FIELDS(MYLINEAR_CHECK_FIELD)
#undef MYLINEAR_CHECK_FIELD

static_assert(sizeof(OrtCustomOp) == 26 * sizeof(void*));
static_assert(sizeof(OrtApiBase) == 2 * sizeof(void*));
static_assert(sizeof(OrtErrorCode) == 4 && sizeof(ONNXTensorElementDataType) == 4);
static_assert(sizeof(OrtCustomOpInputOutputCharacteristic) == 4 && sizeof(OrtMemType) == 4);

}  // namespace mylinear::abi

#endif  // MYLINEAR_ORT_ABI_H_
