// Attention of a layer in a compiled model, with the writing of its keys and values: vLLM's own two kernels, called from
// C++ with what Python has left here. Compiled by compiled.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace {

using torch::stable::Tensor;
using torch::stable::detail::from;

struct Layer {
  Tensor keys, values;  // the cache: [blocks, heads, tokens of a block, head size]
  int64_t group;
  double scale, softcap, key_scale, value_scale;
  int64_t window;
  std::string instructions, cache_dtype;
};

// What vLLM's metadata say of the requests of a step, for the layers of one group: those that share a block table.
struct Step {
  Tensor query_start_loc, seq_lens, block_table, scheduler_metadata, slot_mapping;
  std::optional<Tensor> dynamic_causal;
  bool causal;
  int64_t tokens;
};

std::vector<std::optional<Layer>> layers;
std::vector<Step> groups;  // none while vLLM runs a model without requests
int64_t next = -1;         // the least number of a layer that may come in this step

void set_attention_layer(int64_t number, const Tensor keys, const Tensor values, int64_t group, double scale,
                         double softcap, double key_scale, double value_scale, int64_t window,
                         std::string instructions, std::string cache_dtype) {
  if (number >= (int64_t)layers.size()) layers.resize(number + 1);
  layers[number] = Layer{keys, values, group, scale, softcap, key_scale, value_scale, window, instructions, cache_dtype};
}

void begin_attention(int64_t first) {
  groups.clear();
  next = first;
}

void add_attention_group(const Tensor query_start_loc, const Tensor seq_lens, const Tensor block_table,
                         const Tensor scheduler_metadata, const Tensor slot_mapping,
                         std::optional<Tensor> dynamic_causal, bool causal, int64_t tokens) {
  groups.push_back(
      {query_start_loc, seq_lens, block_table, scheduler_metadata, slot_mapping, dynamic_causal, causal, tokens});
}

void attend(Tensor query, const Tensor key, const Tensor value, Tensor output, int64_t number) {
  STD_TORCH_CHECK(next >= 0 && number >= next, "attention layer ", number, " came where ", next,
                  " was expected: this model's layers do not run in the order in which they were made; start with "
                  "--enforce-eager");
  next = number + 1;
  if (groups.empty()) return;
  const Layer& layer = layers.at(number).value();
  const Step& step = groups.at(layer.group);
  StableIValue written[] = {from(key),
                            from(value),
                            from(layer.keys),
                            from(layer.values),
                            from(step.slot_mapping),
                            from(layer.instructions),
                            from(layer.key_scale),
                            from(layer.value_scale),
                            from(layer.cache_dtype)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("_C::cpu_attn_reshape_and_cache", "", written, TORCH_ABI_VERSION));
  if (step.tokens < query.size(0)) {
    query = torch::stable::narrow(query, 0, 0, step.tokens);
    output = torch::stable::narrow(output, 0, 0, step.tokens);
  }
  std::optional<Tensor> none;
  StableIValue read[] = {from(query),
                         from(layer.keys),
                         from(layer.values),
                         from(output),
                         from(step.query_start_loc),
                         from(step.seq_lens),
                         from(layer.scale),
                         from(step.causal),
                         from(none),  // ALiBi's slopes
                         from(layer.window),
                         from(step.block_table),
                         from(layer.softcap),
                         from(step.scheduler_metadata),
                         from(none),  // sinks
                         from(step.dynamic_causal),
                         from(layer.key_scale),
                         from(layer.value_scale),
                         from(layer.cache_dtype)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("_C::cpu_attention_with_kv_cache", "", read, TORCH_ABI_VERSION));
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(lorecall, m) {
  m.def(
      "set_attention_layer(int number, Tensor keys, Tensor values, int group, float scale, float softcap, "
      "float key_scale, float value_scale, int window, str instructions, str cache_dtype) -> ()");
  m.def("begin_attention(int first) -> ()");
  m.def(
      "add_attention_group(Tensor query_start_loc, Tensor seq_lens, Tensor block_table, Tensor scheduler_metadata, "
      "Tensor slot_mapping, Tensor? dynamic_causal, bool causal, int tokens) -> ()");
  m.def("attend(Tensor query, Tensor key, Tensor value, Tensor(a!) output, int layer) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(lorecall, CompositeExplicitAutograd, m) {
  m.impl("set_attention_layer", TORCH_BOX(&set_attention_layer));
  m.impl("begin_attention", TORCH_BOX(&begin_attention));
  m.impl("add_attention_group", TORCH_BOX(&add_attention_group));
}

STABLE_TORCH_LIBRARY_IMPL(lorecall, CPU, m) { m.impl("attend", TORCH_BOX(&attend)); }
