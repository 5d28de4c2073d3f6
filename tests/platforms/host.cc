// A host in C++ without Python: runs a model with one input of two dimensions, with this project's library or
// by the function body, and writes the output's bytes.
//
//   host MODEL LIBRARY|- INPUT OUTPUT ROWS COLUMNS     INPUT and OUTPUT are the bytes of the tensors
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

// A path as onnxruntime takes it: in 16 bits on Windows. The names here are ASCII.
std::basic_string<ORTCHAR_T> native(const std::string& path) { return {path.begin(), path.end()}; }

void run(char** argv) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "host");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  if (std::string(argv[2]) != "-") options.RegisterCustomOpsLibrary(native(argv[2]).c_str());
  Ort::Session session(env, native(argv[1]).c_str(), options);

  std::ifstream file(argv[3], std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const int64_t shape[] = {std::atoll(argv[5]), std::atoll(argv[6])};
  const auto type = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetElementType();
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto x = Ort::Value::CreateTensor(memory, bytes.data(), bytes.size(), shape, 2, type);

  Ort::AllocatorWithDefaultOptions allocator;
  const auto input = session.GetInputNameAllocated(0, allocator);
  const auto output = session.GetOutputNameAllocated(0, allocator);
  const char* const inputs[] = {input.get()};
  const char* const outputs[] = {output.get()};
  const auto y = session.Run(Ort::RunOptions{}, inputs, &x, 1, outputs, 1);
  const auto info = y[0].GetTensorTypeAndShapeInfo();
  const size_t size = info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE ? 8 : 4;
  std::ofstream(argv[4], std::ios::binary)
      .write(static_cast<const char*>(y[0].GetTensorRawData()),
             static_cast<std::streamsize>(info.GetElementCount() * size));
  std::printf("onnxruntime %s, %zu numbers\n", Ort::GetVersionString().c_str(), info.GetElementCount());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fprintf(stderr, "host MODEL LIBRARY|- INPUT OUTPUT ROWS COLUMNS\n");
    return 2;
  }
  try {
    run(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "host: %s\n", error.what());
    return 1;
  }
}
