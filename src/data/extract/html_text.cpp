#include "data/extract/html_text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <utility>

namespace cachalot::data {
namespace {

constexpr char kPreMark = '\x01';

constexpr std::array<std::string_view, 9> kSkipped = {
    "script", "style", "head", "nav", "header", "footer", "svg", "button", "template"};
constexpr std::array<std::string_view, 22> kBlocks = {
    "p",     "div",   "section", "article", "ul",    "ol",         "dl",     "dt",
    "dd",    "table", "tr",      "br",      "hr",    "blockquote", "figure", "main",
    "aside", "body",  "html",    "tbody",   "thead", "form"};

template <size_t N>
bool is_one_of(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f'; }

bool is_heading(std::string_view name) {
  return name.size() == 2 && name[0] == 'h' && name[1] >= '1' && name[1] <= '6';
}

void append_utf8(std::string& out, uint32_t c) {
  if (c == 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return;
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
    {"amp", "&"},   {"lt", "<"},     {"gt", ">"},     {"quot", "\""},  {"apos", "'"},
    {"nbsp", " "},  {"ndash", "–"},  {"mdash", "—"},  {"hellip", "…"}, {"lsquo", "‘"},
    {"rsquo", "’"}, {"ldquo", "“"},  {"rdquo", "”"},  {"copy", "©"},   {"reg", "®"},
    {"times", "×"}, {"rarr", "→"},   {"larr", "←"},   {"middot", "·"}, {"bull", "•"},
    {"deg", "°"},   {"eacute", "é"}, {"egrave", "è"}, {"agrave", "à"}, {"uuml", "ü"},
    {"ouml", "ö"},  {"auml", "ä"},   {"szlig", "ß"},  {"ccedil", "ç"}, {"laquo", "«"},
    {"raquo", "»"}, {"sect", "§"},   {"para", "¶"},   {"trade", "™"},  {"le", "≤"},
    {"ge", "≥"},    {"ne", "≠"},     {"alpha", "α"},  {"beta", "β"},   {"lambda", "λ"},
    {"pi", "π"},    {"infin", "∞"},  {"minus", "−"},  {"thinsp", " "}, {"zwj", ""}};

class Reader {
 public:
  explicit Reader(std::string_view html) : html_(html) {}

  std::string read() {
    while (at_ < html_.size()) {
      if (html_[at_] == '<') {
        tag();
      } else {
        text();
      }
    }
    end_line();
    return std::move(out_);
  }

 private:
  void tag() {
    if (html_.substr(at_, 4) == "<!--") return skip_past("-->", at_ + 4);
    const size_t name_at = at_ + 1 + (at_ + 1 < html_.size() && html_[at_ + 1] == '/' ? 1 : 0);
    if (name_at >= html_.size() || std::isalpha(static_cast<unsigned char>(html_[name_at])) == 0) {
      if (name_at < html_.size() && (html_[name_at] == '!' || html_[name_at] == '?'))
        return skip_past(">", at_);
      add_character('<');  // a sign, no tag
      ++at_;
      return;
    }
    std::string name;
    for (size_t i = name_at; i < html_.size() && name.size() < 16 &&
                             std::isalnum(static_cast<unsigned char>(html_[i])) != 0;
         ++i)
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(html_[i])));
    const bool closing = html_[at_ + 1] == '/';
    skip_tag();
    if (!closing && is_one_of(kSkipped, name)) return skip_element(name);
    apply(name, closing);
  }

  void apply(const std::string& name, bool closing) {
    if (name == "pre") {
      end_line();
      pre_ = closing ? 0 : 1;
    } else if (is_heading(name)) {
      end_line();
      blank_line();
    } else if (name == "li") {
      end_line();
      if (!closing) line_ = "- ";
    } else if (name == "td" || name == "th") {
      if (closing && !line_.empty() && line_.back() != '\t') line_ += '\t';
    } else if (is_one_of(kBlocks, name)) {
      end_line();
      if (name == "p" || name == "table" || name == "dl") blank_line();
    }
  }

  void text() {
    const size_t end = std::min(html_.find('<', at_), html_.size());
    while (at_ < end) {
      if (html_[at_] == '&') {
        entity(end);
      } else {
        add_character(html_[at_++]);
      }
    }
  }

  void entity(size_t end) {
    const size_t semicolon = html_.substr(0, std::min(end, at_ + 12)).find(';', at_);
    if (semicolon == std::string_view::npos) return add_character(html_[at_++]);
    const std::string_view name = html_.substr(at_ + 1, semicolon - at_ - 1);
    std::string decoded;
    if (name.size() > 1 && name[0] == '#') {
      const bool hex = name[1] == 'x' || name[1] == 'X';
      uint32_t code = 0;
      for (const char c : name.substr(hex ? 2 : 1)) {
        const int digit = std::isdigit(static_cast<unsigned char>(c)) != 0 ? c - '0'
                          : hex && std::isxdigit(static_cast<unsigned char>(c)) != 0
                              ? std::tolower(static_cast<unsigned char>(c)) - 'a' + 10
                              : -1;
        if (digit < 0) return add_character(html_[at_++]);
        code = std::min<uint32_t>(code * (hex ? 16 : 10) + static_cast<uint32_t>(digit), 0x110000);
      }
      append_utf8(decoded, code == 0xA0 ? ' ' : code);
    } else {
      const auto* found = std::find_if(std::begin(kEntities), std::end(kEntities),
                                       [&](const auto& entry) { return entry.first == name; });
      if (found == std::end(kEntities)) return add_character(html_[at_++]);
      decoded = found->second;
    }
    for (const char c : decoded) add_character(c);
    at_ = semicolon + 1;
  }

  void add_character(char c) {
    if (c == kPreMark) return;
    if (pre_ > 0) {
      if (c == '\n') return end_line();
      if (c != '\r') line_ += c;
      return;
    }
    if (!is_space(c)) {
      line_ += c;
    } else if (!line_.empty() && line_.back() != ' ' && line_.back() != '\t') {
      line_ += ' ';
    }
  }

  void end_line() {
    while (!line_.empty() && (line_.back() == ' ' || line_.back() == '\t')) line_.pop_back();
    if (pre_ > 0) {
      if (!line_.empty() || (!out_.empty() && !out_.ends_with("\n\n"))) {
        if (!line_.empty()) out_ += kPreMark;
        out_ += line_ + "\n";
      }
    } else if (!line_.empty() && line_ != "-") {
      out_ += line_ + "\n";
    }
    line_.clear();
  }
  void blank_line() {
    if (!out_.empty() && !out_.ends_with("\n\n")) out_ += '\n';
  }

  // To behind the '>' of the tag at at_, by the tokenizer's states of the HTML standard (13.2.5): a
  // quote opens only where an attribute's value begins, anywhere else it is a character of a name
  // or of an unquoted value.
  void skip_tag() {
    enum class State { tag_name, before_name, name, after_name, before_value, unquoted, quoted };
    State state = State::tag_name;
    char quote = 0;
    for (++at_; at_ < html_.size(); ++at_) {
      const char c = html_[at_];
      if (state == State::quoted) {
        if (c == quote) state = State::before_name;
        continue;
      }
      if (c == '>') {
        ++at_;
        return;
      }
      const bool space = is_space(c);
      switch (state) {
        case State::tag_name:
          // A closing tag's name follows its slash.
          if (space || (c == '/' && html_[at_ - 1] != '<')) state = State::before_name;
          break;
        case State::before_name:
          if (!space && c != '/') state = State::name;  // '=' too
          break;
        case State::name:
        case State::after_name:
          if (c == '/') {
            state = State::before_name;
          } else if (c == '=') {
            state = State::before_value;
          } else {
            state = space ? State::after_name : State::name;
          }
          break;
        case State::before_value:
          if (c == '"' || c == '\'') {
            quote = c;
            state = State::quoted;
          } else if (!space) {
            state = State::unquoted;
          }
          break;
        case State::unquoted:
          if (space) state = State::before_name;
          break;
        case State::quoted: break;
      }
    }
  }
  void skip_past(std::string_view mark, size_t from) {
    const size_t found = html_.find(mark, from);
    at_ = found == std::string_view::npos ? html_.size() : found + mark.size();
  }
  // To behind the closing tag; elements of the same name may nest (nav in nav).
  void skip_element(const std::string& name) {
    const bool raw = name == "script" || name == "style";
    for (int depth = 1; depth > 0 && at_ < html_.size();) {
      const size_t open = html_.find('<', at_);
      if (open == std::string_view::npos) {
        at_ = html_.size();
        return;
      }
      at_ = open + 1;
      const bool closing = at_ < html_.size() && html_[at_] == '/';
      const size_t name_at = at_ + (closing ? 1 : 0);
      if (!is_name(name_at, name)) continue;
      if (closing) {
        --depth;
      } else if (!raw) {
        ++depth;
      }
    }
    skip_past(">", at_);
  }
  bool is_name(size_t at, const std::string& name) const {
    if (at + name.size() >= html_.size()) return false;
    for (size_t i = 0; i < name.size(); ++i) {
      if (std::tolower(static_cast<unsigned char>(html_[at + i])) != name[i]) return false;
    }
    return std::isalnum(static_cast<unsigned char>(html_[at + name.size()])) == 0;
  }

  std::string_view html_;
  size_t at_ = 0;
  int pre_ = 0;
  std::string line_;
  std::string out_;
};

}  // namespace

std::string html_text(std::string_view html) { return Reader(html).read(); }

std::string strip_pre_marks(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c != kPreMark) out += c;
  }
  return out;
}

}  // namespace cachalot::data
