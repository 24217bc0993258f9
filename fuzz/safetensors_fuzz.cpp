// Any bytes as a .safetensors file: an error, or tensors inside the bytes that survive being
// written and read again.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "formats/name_map.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace {

using namespace cachalot;
using namespace cachalot::formats;

class StringSink : public Sink {
 public:
  Status write(std::span<const std::byte> bytes) override {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  }
  std::string text;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const Result<SafetensorsContents> contents = parse_safetensors(bytes, "input");
  if (!contents) {
    CACHALOT_CHECK(contents.error().message().find("input") != std::string::npos);
    return 0;
  }
  std::vector<TensorSpec> specs;
  for (const NamedTensor& tensor : contents.value().tensors) {
    CACHALOT_CHECK(tensor.view.num_bytes() >= 0);
    CACHALOT_CHECK(tensor.view.data >= bytes.data() &&
                   tensor.view.data + tensor.view.num_bytes() <= bytes.data() + size);
    specs.push_back({tensor.name, tensor.view.dtype, tensor.view.shape, tensor.stored});
    const CanonicalName canonical = canonical_name(tensor.name);
    (void)parse_expert_name(canonical.name);
    (void)transformers_name(canonical.name);
  }
  StringSink sink;
  Result<SafetensorsWriter> writer =
      SafetensorsWriter::begin(&sink, specs, contents.value().metadata);
  CACHALOT_CHECK(writer.has_value());
  for (const NamedTensor& tensor : contents.value().tensors) {
    CACHALOT_CHECK(writer->write(tensor.view.bytes()).ok());
  }
  CACHALOT_CHECK(writer->finish().ok());
  const Result<SafetensorsContents> again =
      parse_safetensors(std::as_bytes(std::span(sink.text)), "again");
  CACHALOT_CHECK(again.has_value() && again.value().tensors.size() == specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    CACHALOT_CHECK(again.value().tensors[i].stored.dtype == specs[i].stored.dtype);
    CACHALOT_CHECK(again.value().tensors[i].stored.shape == specs[i].stored.shape);
  }
  CACHALOT_CHECK(again.value().metadata == contents.value().metadata);
  return 0;
}
