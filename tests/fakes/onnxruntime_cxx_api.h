// A stand-in for ONNX Runtime's C++ header: only what examples/06_onnxruntime.cpp calls, by the signatures of the real
// one. Its one model has an input of 8x16 and names each pixel's strongest channel; wrong names or sizes end with 9.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

struct OrtAllocator {};
struct OrtMemoryInfo {};
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };

namespace Ort {
inline void require(bool condition) {
  if (!condition) std::exit(9);
}

struct Env {};
struct SessionOptions {};
struct RunOptions {};

struct AllocatorWithDefaultOptions {
  operator OrtAllocator*() { return &allocator; }
  OrtAllocator allocator;
};

struct MemoryInfo {
  static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType) { return {}; }
  operator const OrtMemoryInfo*() const { return &info; }
  OrtMemoryInfo info;
};

struct ModelMetadata {
  using Text = std::unique_ptr<char, void (*)(void*)>;
  Text LookupCustomMetadataMapAllocated(const char* key, OrtAllocator*) const {
    require(std::strcmp(key, "clst_manifest") == 0);
    return Text(strdup("{\"input_hw\": [8, 16]}"), std::free);
  }
};

struct TensorTypeAndShapeInfo {
  std::vector<int64_t> GetShape() const { return {1, 8, 16, 3}; }
};

struct TypeInfo {
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const { return {}; }
};

struct Value {
  template <typename T>
  static Value CreateTensor(const OrtMemoryInfo*, T* data, size_t count, const int64_t* shape, size_t dimensions) {
    static_assert(sizeof(T) == 1, "uint8");
    require(count == 8 * 16 * 3 && dimensions == 4 && shape[0] == 1 && shape[3] == 3);
    return Value{std::vector<uint8_t>(data, data + count)};
  }
  template <typename T>
  const T* GetTensorData() const {
    return bytes.data();
  }
  std::vector<uint8_t> bytes;
};

struct Session {
  Session(const Env&, const char* path, const SessionOptions&) { require(std::strcmp(path, "model.onnx") == 0); }
  ModelMetadata GetModelMetadata() const { return {}; }
  TypeInfo GetInputTypeInfo(size_t index) const {
    require(index == 0);
    return {};
  }
  std::vector<Value> Run(const RunOptions&, const char* const* inputs, const Value* values, size_t input_count,
                         const char* const* outputs, size_t output_count) {
    require(input_count == 1 && std::strcmp(inputs[0], "frame") == 0);
    require(output_count == 1 && std::strcmp(outputs[0], "classes") == 0);
    std::vector<uint8_t> classes;
    for (size_t pixel = 0; pixel < values->bytes.size(); pixel += 3) {
      const uint8_t* rgb = &values->bytes[pixel];
      classes.push_back(rgb[0] >= rgb[1] && rgb[0] >= rgb[2] ? 0 : (rgb[1] >= rgb[2] ? 1 : 2));
    }
    return {Value{classes}};
  }
};
}  // namespace Ort
