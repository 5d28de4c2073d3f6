// Runs a model in onnxruntime's C++ API: host MODEL LIBRARY OUTPUT INPUT.npy ...; writes the numbers of the outputs.
// With "" for LIBRARY, the definitions that the model carries run; else the kernels of the library.

#include <onnxruntime_cxx_api.h>

#include <fstream>
#include <iostream>
#include <sstream>

static Ort::Value ReadArray(const std::string& path, ONNXTensorElementDataType type, std::string* bytes) {
  std::ifstream file(path, std::ios::binary);
  bytes->assign(std::istreambuf_iterator<char>(file), {});
  if (bytes->compare(0, 6, "\x93NUMPY") != 0) throw std::runtime_error(path + " is no .npy file");
  const size_t head = 10 + static_cast<unsigned char>((*bytes)[8]) + 256 * static_cast<unsigned char>((*bytes)[9]);
  std::istringstream text(bytes->substr(bytes->find('(') + 1, bytes->find(')') - bytes->find('(') - 1));
  std::vector<int64_t> shape;
  for (std::string size; std::getline(text, size, ',') && size.find_first_of("0123456789") != size.npos;)
    shape.push_back(std::stoll(size));
  bytes->erase(0, head);  // what is left are the numbers, which must live as long as the value
  return Ort::Value::CreateTensor(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), bytes->data(),
                                  bytes->size(), shape.data(), shape.size(), type);
}

int main(int argc, char** argv) try {
  if (argc < 5) throw std::runtime_error("usage: host MODEL LIBRARY OUTPUT INPUT.npy ...");
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "host");
  Ort::SessionOptions options;
  if (*argv[2]) options.RegisterCustomOpsLibrary(argv[2]);
  Ort::Session session(env, argv[1], options);
  const auto names = session.GetInputNames(), outputs = session.GetOutputNames();
  if (names.size() != static_cast<size_t>(argc - 4)) throw std::runtime_error("the model takes another number of inputs");
  std::vector<std::string> bytes(names.size());
  std::vector<Ort::Value> inputs;
  std::vector<const char*> in, out;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto type = session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetElementType();
    inputs.push_back(ReadArray(argv[4 + i], type, &bytes[i]));
    in.push_back(names[i].c_str());
  }
  for (const std::string& name : outputs) out.push_back(name.c_str());
  const auto values = session.Run({}, in.data(), inputs.data(), in.size(), out.data(), out.size());
  for (size_t i = 0; i < out.size(); ++i)
    std::ofstream(argv[3] + std::to_string(i), std::ios::binary)
        .write(static_cast<const char*>(values[i].GetTensorRawData()), values[i].GetTensorSizeInBytes());
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
