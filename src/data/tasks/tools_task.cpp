// Accounts behind tools: balances are seen and changed only through calls.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/json.h"
#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {
using Accounts = std::map<std::string, int64_t>;

std::string error(std::string_view what) { return fmt::format("{{\"error\": \"{}\"}}", what); }

class Bank final : public ToolEnvironment {
 public:
  explicit Bank(Accounts accounts) : accounts_(std::move(accounts)) {}
  const Accounts& accounts() const { return accounts_; }

  std::string call(const text::ToolCall& call) override {
    const auto parsed = parse_json(call.arguments, "arguments");
    if (!parsed || !parsed->is_object()) return error("arguments must be a JSON object");
    const json::object& arguments = parsed->get_object();
    if (call.name == "get_balance") {
      const auto account = find(arguments, "account");
      if (account == accounts_.end() || arguments.size() != 1) return error("no such account");
      return fmt::format("{{\"balance\": {}}}", account->second);
    }
    if (call.name == "transfer") return transfer(arguments);
    if (call.name == "get_weather") return "{\"weather\": \"rain\"}";
    return error("no such tool");
  }

 private:
  Accounts::iterator find(const json::object& arguments, std::string_view key) {
    const json::value* name = arguments.if_contains(key);
    if (name == nullptr || !name->is_string()) return accounts_.end();
    return accounts_.find(std::string(name->get_string()));
  }

  std::string transfer(const json::object& arguments) {
    const auto from = find(arguments, "from"), to = find(arguments, "to");
    const json::value* amount = arguments.if_contains("amount");
    if (from == accounts_.end() || to == accounts_.end() || from == to || arguments.size() != 3) {
      return error("no such accounts");
    }
    if (amount == nullptr || !amount->is_int64() || amount->get_int64() < 1 ||
        amount->get_int64() > from->second) {
      return error("amount must be an integer from 1 to the balance");
    }
    from->second -= amount->get_int64();
    to->second += amount->get_int64();
    return "{\"ok\": true}";
  }

  Accounts accounts_;
};

json::object parameters(const std::vector<std::pair<std::string, std::string>>& fields) {
  json::object properties;
  json::array required;
  for (const auto& [name, type] : fields) {
    properties[name] = json::object{{"type", type}};
    required.emplace_back(name);
  }
  return {
      {"type", "object"}, {"properties", std::move(properties)}, {"required", std::move(required)}};
}

text::ToolDefinition tool(std::string_view name, std::string_view description,
                          json::object fields) {
  return {
      .function = {{"name", name}, {"description", description}, {"parameters", std::move(fields)}},
      .name_space = nullptr};
}

std::vector<text::ToolDefinition> bank_tools(int difficulty) {
  std::vector<text::ToolDefinition> tools = {
      tool("get_balance", "The coins in an account.", parameters({{"account", "string"}})),
      tool("transfer", "Moves coins between two accounts.",
           parameters({{"from", "string"}, {"to", "string"}, {"amount", "integer"}}))};
  if (difficulty >= 4) {
    tools.insert(tools.begin(),
                 tool("get_weather", "The weather in a city.", parameters({{"city", "string"}})));
  }
  return tools;
}

// Tells what is to be done and does it: the reference calls are what was needed on the way.
class Story {
 public:
  Story(Accounts accounts, Draw& draw) : bank_(std::move(accounts)), draw_(draw) {
    for (const auto& [name, balance] : bank_.accounts()) names_.push_back(name);
  }

  void step() {
    draw_.shuffle(names_);
    const std::string from = names_[0], to = names_[1];
    const int64_t balance = bank_.accounts().at(from);
    if (balance < 4) return;
    switch (draw_.between(0, 2)) {
      case 0: {
        const int64_t amount = draw_.between(1, balance / 2);
        text_ += fmt::format("Transfer {} coins from {} to {}.\n", amount, from, to);
        transfer(from, to, amount);
        break;
      }
      case 1:
        text_ += fmt::format("Move all coins of {} to {}.\n", from, to);
        look(from);
        transfer(from, to, balance);
        break;
      default: {
        const int64_t limit = draw_.between(balance / 2, 2 * balance);
        const int64_t more = draw_.between(1, balance / 4), less = draw_.between(1, balance / 4);
        text_ +=
            fmt::format("If {} has more than {} coins, transfer {} from {} to {}, otherwise {}.\n",
                        from, limit, more, from, to, less);
        look(from);
        transfer(from, to, balance > limit ? more : less);
      }
    }
  }

  // Ends the story with a question; returns its answer.
  int64_t ask() {
    const std::string name = draw_.pick(names_);
    text_ += fmt::format("How many coins does {} have in the end?", name);
    look(name);
    return bank_.accounts().at(name);
  }

  const std::string& text() const { return text_; }
  const Accounts& accounts() const { return bank_.accounts(); }
  std::vector<text::ToolCall> take_calls() { return std::move(calls_); }

 private:
  void call(std::string name, std::string arguments) {
    text::ToolCall call;
    call.id = fmt::format("call_{}", calls_.size() + 1);
    call.name = std::move(name);
    call.arguments = std::move(arguments);
    bank_.call(call);
    calls_.push_back(std::move(call));
  }
  void look(const std::string& name) {
    call("get_balance", fmt::format("{{\"account\": \"{}\"}}", name));
  }
  void transfer(const std::string& from, const std::string& to, int64_t amount) {
    call("transfer",
         fmt::format("{{\"from\": \"{}\", \"to\": \"{}\", \"amount\": {}}}", from, to, amount));
  }

  Bank bank_;
  Draw& draw_;
  std::vector<std::string> names_;
  std::string text_;
  std::vector<text::ToolCall> calls_;
};

// num_changes changes of these accounts, then a question.
Task bank_task(const Accounts& start, int num_changes, Draw& draw) {
  Story story(start, draw);
  for (int i = 0; i < num_changes; ++i) story.step();
  const int64_t answer = story.ask();
  Task task = exact_answer_task(story.text(), {}, fmt::format("{}", answer));
  const Accounts end = story.accounts();
  task.answer.tool_calls = story.take_calls();
  const size_t most_calls = 4 * task.answer.tool_calls.size() + 4;
  task.check = [exact = std::move(task.check), start, end,
                most_calls](const Reply& reply) -> Verdict {
    if (reply.tool_calls.empty()) return {.correct = false, .why = "no tool was called"};
    if (reply.tool_calls.size() > most_calls) return {.correct = false, .why = "too many calls"};
    Bank bank(start);
    for (const text::ToolCall& call : reply.tool_calls) bank.call(call);
    if (bank.accounts() != end)
      return {.correct = false, .why = "the accounts are not as they should be"};
    return exact(reply);
  };
  return task;
}

std::function<std::unique_ptr<ToolEnvironment>()> bank_of(const Accounts& start) {
  return [start] { return std::make_unique<Bank>(start); };
}
}  // namespace

// difficulty / 2 changes over 2 + difficulty / 4 accounts, then a question. From 4 on there is a
// tool that does not help, and one task in eight needs none.
Task make_tools(int difficulty, Draw draw) {
  const std::vector<std::string> names = draw.names(2 + difficulty / 4, 2);
  Accounts start;
  for (const std::string& name : names) start[name] = draw.between(10, 99);
  Task task;
  if (difficulty >= 4 && draw.between(0, 7) == 0) {
    const std::string word = draw.names(1, draw.between(2, 4)).front();
    task = exact_answer_task(fmt::format("How many letters has the word {}?", word), {},
                             fmt::format("{}", word.size()));
    task.check = [exact = std::move(task.check)](const Reply& reply) -> Verdict {
      if (!reply.tool_calls.empty()) return {.correct = false, .why = "no tool was needed"};
      return exact(reply);
    };
  } else {
    task = bank_task(start, difficulty / 2, draw);
  }
  task.tools = bank_tools(difficulty);
  task.environment = bank_of(start);
  return task;
}

// Friends' purses: 1 + difficulty / 3 changes over 2 + difficulty / 4 of them, then a question.
Task make_friends(int difficulty, Draw draw) {
  std::vector<std::string> names = {"Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gina", "Hugo"};
  draw.shuffle(names);
  names.resize(std::min<size_t>(names.size(), 2 + static_cast<size_t>(difficulty) / 4));
  Accounts start;
  for (const std::string& name : names) start[name] = draw.between(10, 99);
  Task task = bank_task(start, 1 + difficulty / 3, draw);
  task.tools = bank_tools(0);
  task.environment = bank_of(start);
  return task;
}

}  // namespace cachalot::data
