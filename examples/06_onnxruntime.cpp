// Run an exported file with ONNX Runtime's C++ API: frame.bin (H*W*3 bytes, RGB) becomes classes.bin (H*W bytes).
//   c++ -std=c++17 06_onnxruntime.cpp -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime
#include <onnxruntime_cxx_api.h>

#include <fstream>
#include <iostream>
#include <vector>

int main() {
  Ort::Env env;
  Ort::Session session(env, "model.onnx", Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions allocator;
  auto manifest = session.GetModelMetadata().LookupCustomMetadataMapAllocated("clst_manifest", allocator);
  std::cout << manifest.get() << '\n';  // JSON: input_hw, fit, classes …

  auto type = session.GetInputTypeInfo(0);
  std::vector<int64_t> shape = type.GetTensorTypeAndShapeInfo().GetShape();  // 1,H,W,3
  std::vector<uint8_t> frame(shape[1] * shape[2] * shape[3]);
  std::ifstream("frame.bin", std::ios::binary).read(reinterpret_cast<char*>(frame.data()), frame.size());

  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto input = Ort::Value::CreateTensor<uint8_t>(memory, frame.data(), frame.size(), shape.data(), shape.size());
  const char *inputs[] = {"frame"}, *outputs[] = {"classes"};
  auto results = session.Run(Ort::RunOptions{}, inputs, &input, 1, outputs, 1);
  const uint8_t* classes = results[0].GetTensorData<uint8_t>();  // 1,H,W
  std::ofstream("classes.bin", std::ios::binary).write(reinterpret_cast<const char*>(classes), shape[1] * shape[2]);
}
