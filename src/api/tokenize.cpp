#include "api/tokenize.h"

#include "api/chat_completions.h"
#include "api/logprob_text.h"
#include "api/model_field.h"
#include "base/python_json.h"

namespace cachalot::api {
namespace {

HttpAnswer answer_of(const json::object& body) {
  HttpAnswer answer;
  answer.body = python_json(body);
  return answer;
}

json::array texts(const std::vector<int32_t>& ids, const ServedModel& model) {
  json::array out;
  for (const int32_t id : ids) out.push_back(json::value(token_text(model.tokenizer(), id)));
  return out;
}

// llama.cpp's: {"content", "add_special", "parse_special", "with_pieces"}.
Routed tokenize_content(Fields& fields, const ServedModel& model) {
  std::string content;
  bool adds_bos = false, parses_controls = true, has_pieces = false;
  fields.text("content", &content);
  fields.boolean("add_special", &adds_bos);
  fields.boolean("parse_special", &parses_controls);
  fields.boolean("with_pieces", &has_pieces);
  if (!fields.status().ok()) return error_answer(fields.status(), ErrorShape::openai);
  const text::Segment segment{text::Segment::Kind::text, content};
  std::vector<int32_t> ids = parses_controls ? model.tokenizer().encode(content)
                                             : model.tokenizer().encode_segments({&segment, 1});
  if (adds_bos) {
    const auto bos = text::raw_prompt_ids(model.tokenizer(), model.options().bos_token, {});
    if (ids.empty() || ids.front() != bos.front()) ids.insert(ids.begin(), bos.front());
  }
  if (!has_pieces) return answer_of({{"tokens", json::array(ids.begin(), ids.end())}});
  json::array pieces;
  const json::array all = texts(ids, model);
  for (size_t i = 0; i < ids.size(); ++i)
    pieces.push_back(json::object{{"id", ids[i]}, {"piece", all[i]}});
  return answer_of({{"tokens", std::move(pieces)}});
}

Result<std::vector<int32_t>> prompt_ids(json::object& body, Fields& fields, bool thinks,
                                        const ServedModel& model) {
  if (fields.find("messages") != nullptr) {
    CACHALOT_ASSIGN_OR_RETURN(const ChatAsk ask, read_chat(body, model, thinks));
    CACHALOT_ASSIGN_OR_RETURN(text::ChatPrompt prompt, render_chat(ask, model));
    return std::move(prompt.ids);
  }
  const json::value* prompt = fields.find("prompt");
  if (prompt == nullptr || !prompt->is_string())
    return invalid_argument("prompt: expected a string, or messages or content beside, found none");
  bool adds_bos = true;
  fields.boolean("add_special_tokens", &adds_bos);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  const std::string_view text = prompt->get_string();
  return adds_bos ? text::raw_prompt_ids(model.tokenizer(), model.options().bos_token, text)
                  : model.tokenizer().encode(text);
}

}  // namespace

Routed tokenize(const HttpRequest& request, const ServedModel& model) {
  Result<json::object> body = parse_body(request.body);
  if (!body) return error_answer(body.error(), ErrorShape::openai);
  Fields fields(*body);
  ServedModel::Name name;
  if (const auto error = read_model(fields, ErrorShape::openai, model, &name))
    return error_answer(*error, ErrorShape::openai);
  if (fields.find("content") != nullptr) return tokenize_content(fields, model);
  bool has_texts = false;
  fields.boolean("return_token_strs", &has_texts);
  const Result<std::vector<int32_t>> ids = prompt_ids(*body, fields, name.thinks, model);
  if (!ids) return error_answer(ids.error(), ErrorShape::openai);
  return answer_of(
      {{"count", ids->size()},
       {"max_model_len", model.options().context_tokens},
       {"tokens", json::array(ids->begin(), ids->end())},
       {"token_strs", has_texts ? json::value(texts(*ids, model)) : json::value(nullptr)}});
}

Routed detokenize(const HttpRequest& request, const ServedModel& model) {
  const Result<json::object> body = parse_body(request.body);
  if (!body) return error_answer(body.error(), ErrorShape::openai);
  Fields fields(*body);
  ServedModel::Name name;
  if (const auto error = read_model(fields, ErrorShape::openai, model, &name))
    return error_answer(*error, ErrorShape::openai);
  std::vector<int32_t> ids;
  fields.ids("tokens", model.tokenizer().vocab_size(), &ids);
  if (!fields.status().ok()) return error_answer(fields.status(), ErrorShape::openai);
  const Result<std::string> text = model.tokenizer().decode(ids);
  if (!text) return error_answer(text.error(), ErrorShape::openai);
  return answer_of({{"prompt", *text}, {"content", *text}});
}

}  // namespace cachalot::api
