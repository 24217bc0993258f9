#include "data/extract/roff_text.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace cachalot::data {
namespace {

constexpr std::pair<std::string_view, std::string_view> kCharacters[] = {
    {"aq", "'"}, {"dq", "\""}, {"lq", "“"}, {"rq", "”"}, {"oq", "‘"},  {"cq", "’"}, {"em", "—"},
    {"en", "–"}, {"hy", "-"},  {"bu", "•"}, {"co", "©"}, {"rs", "\\"}, {"ti", "~"}, {"ha", "^"},
    {"ga", "`"}, {"mu", "×"},  {"->", "→"}, {"<-", "←"}, {">=", "≥"},  {"<=", "≤"}, {"!=", "≠"},
    {"+-", "±"}, {"de", "°"},  {"12", "½"}, {"at", "@"}, {"sh", "#"},  {"bv", "|"}, {"lB", "["},
    {"rB", "]"}, {"lC", "{"},  {"rC", "}"}, {"mc", "µ"}, {"*a", "α"},  {"*b", "β"}, {"*l", "λ"},
    {"*p", "π"}, {":u", "ü"},  {":o", "ö"}, {":a", "ä"}, {"ss", "ß"},  {"'e", "é"}, {"/o", "ø"}};

// The text of a line without its escapes.
std::string plain(std::string_view line) {
  std::string out;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\' || i + 1 >= line.size()) {
      out += line[i];
      continue;
    }
    const char c = line[++i];
    const auto argument = [&]() -> std::string_view {  // x, (xx or [xxx]
      if (i + 1 >= line.size()) return {};
      if (line[i + 1] == '(') {
        const std::string_view name = line.substr(i + 2, 2);
        i = std::min(i + 3, line.size() - 1);
        return name;
      }
      if (line[i + 1] == '[') {
        const size_t end = std::min(line.find(']', i), line.size() - 1);
        const std::string_view name = line.substr(i + 2, end - i - 2);
        i = end;
        return name;
      }
      return line.substr(++i, 1);
    };
    const auto quoted = [&] {  // 'xxx'
      if (i + 1 >= line.size()) return;
      const size_t end = line.find(line[i + 1], i + 2);
      i = std::min(end, line.size() - 1);
    };
    switch (c) {
      case 'f':
      case 'F':
      case 'm':
      case 'M':
      case 'k':
      case 'n':
      case '*':
      case 'g': argument(); break;
      case 's':
        if (i + 1 < line.size() && (line[i + 1] == '+' || line[i + 1] == '-')) ++i;
        argument();
        break;
      case 'h':
      case 'v':
      case 'w':
      case 'o':
      case 'l':
      case 'L':
      case 'D':
      case 'b':
      case 'N':
      case 'X':
      case 'Z': quoted(); break;
      case '"':
      case '#': return out;
      case '&':
      case '%':
      case ':':
      case '/':
      case ',':
      case ')':
      case '|':
      case '^':
      case 'c':
      case 'p':
      case '{':
      case '}':
      case '!':
      case 'z':
      case 'u':
      case 'd':
      case 'r': break;
      case '-': out += '-'; break;
      case 'e':
      case 'E':
      case '\\': out += '\\'; break;
      case ' ':
      case '~':
      case '0': out += ' '; break;
      case '(':
      case '[': {
        --i;  // argument() looks behind a letter
        const std::string_view name = argument();
        const auto* found = std::find_if(std::begin(kCharacters), std::end(kCharacters),
                                         [&](const auto& entry) { return entry.first == name; });
        if (found != std::end(kCharacters)) out += found->second;
        break;
      }
      default: out += c;  // \', \`, \. and what nothing defines
    }
  }
  return out;
}

// Words of a macro's line; quotes hold words together.
std::vector<std::string> arguments(std::string_view line) {
  std::vector<std::string> out;
  for (size_t i = 0; i < line.size();) {
    while (i < line.size() && (line[i] == ' ' || line[i] == '\t')) ++i;
    if (i >= line.size()) break;
    std::string word;
    if (line[i] == '"') {
      for (++i; i < line.size(); ++i) {
        if (line[i] == '"') {
          if (i + 1 < line.size() && line[i + 1] == '"') {
            ++i;
          } else {
            break;
          }
        }
        word += line[i];
      }
      ++i;
    } else {
      for (; i < line.size() && line[i] != ' ' && line[i] != '\t'; ++i) {
        word += line[i];
        if (line[i] == '\\' && i + 1 < line.size()) word += line[++i];
      }
    }
    if (word.starts_with("\\\"")) break;
    out.push_back(std::move(word));
  }
  return out;
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class Page {
 public:
  void line(std::string_view line) {
    if (ignored_block_) {
      if (line == ignored_end_ || line.starts_with("..")) ignored_block_ = false;
      return;
    }
    if (!line.empty() && (line[0] == '.' || line[0] == '\'')) return control(line.substr(1));
    if (table_format_) {  // tbl: up to the line that ends in a full stop
      if (line.ends_with('.')) table_format_ = false;
      return;
    }
    if (literal_) return add_line(plain(line));
    if (line.empty()) return end_paragraph(true);
    if (line[0] == ' ' || line[0] == '\t') end_paragraph(false);
    add(plain(line));
  }
  std::string finish() {
    end_paragraph(false);
    return std::move(out_);
  }

 private:
  void control(std::string_view line) {
    size_t at = 0;
    while (at < line.size() && (line[at] == ' ' || line[at] == '\t')) ++at;
    size_t end = at;
    while (end < line.size() && line[end] != ' ' && line[end] != '\t') ++end;
    const std::string_view name = line.substr(at, end - at);
    const std::vector<std::string> words = arguments(line.substr(end));
    if (name.starts_with("\\\"") || name.empty()) return;
    if (is_one_of(name, {"de", "ig", "am", "de1"})) {
      ignored_block_ = true;
      ignored_end_ = words.size() > 1 ? "." + words[1] : "..";
    } else if (is_one_of(name, {"TH", "Dt"})) {
      return;  // the page's name stands under NAME
    } else if (is_one_of(name, {"SH", "SS", "Sh", "Ss"})) {
      heading(words);
    } else if (is_one_of(name, {"PP", "P", "LP", "HP", "Pp", "sp", "IP", "TP", "TQ", "It", "RS",
                                "RE", "Bl", "El", "Bd", "Ed", "br"})) {
      break_before(name, words);
    } else if (is_one_of(name, {"nf", "EX"})) {
      end_paragraph(true);
      literal_ = true;
    } else if (is_one_of(name, {"fi", "EE"})) {
      literal_ = false;
      end_paragraph(true);
    } else if (name == "TS") {
      end_paragraph(true);
      literal_ = table_format_ = true;
    } else if (name == "TE") {
      literal_ = table_format_ = false;
      end_paragraph(true);
    } else if (is_one_of(name, {"BR", "RB", "BI", "IB", "IR", "RI", "SB"})) {
      joined(words);
    } else if (is_one_of(name, {"B", "I", "SM", "R", "UR", "MT", "SY", "OP"})) {
      spaced(words);
    } else if (is_one_of(name, {"Nd"})) {
      add("-");
      spaced(words);
    } else if (name.size() == 2 && name[0] >= 'A' && name[0] <= 'Z' && name[1] >= 'a' &&
               name[1] <= 'z') {
      mdoc(name, words);
    }
    // Other requests print nothing.
  }
  void heading(const std::vector<std::string>& words) {
    end_paragraph(true);
    spaced(words);
    end_paragraph(true);
  }
  void break_before(std::string_view name, const std::vector<std::string>& words) {
    const bool blank = !is_one_of(name, {"br", "TQ", "RE", "It"});
    end_paragraph(blank);
    if (name == "Bd")
      literal_ = !words.empty() && (words[0] == "-literal" || words[0] == "-unfilled");
    if (name == "Ed") literal_ = false;
    if (name == "IP" && !words.empty() && !words[0].empty()) add(plain(words[0]));
    if (name == "It") mdoc(name, words);
  }
  void joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += plain(word);
    literal_ ? add_line(text) : add(text);
  }
  void spaced(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + plain(word);
    literal_ ? add_line(text) : add(text);
  }
  // A semantic macro: the names of macros inside its line print nothing either.
  void mdoc(std::string_view name, const std::vector<std::string>& words) {
    if (is_one_of(name, {"Dd", "Os", "Bk", "Ek", "Rs", "Re"})) return;
    std::string text;
    if (is_one_of(name, {"Fl"})) text = "-";
    bool joins = true;
    for (const std::string& word : words) {
      const bool macro =
          word.size() == 2 && word[0] >= 'A' && word[0] <= 'Z' && word[1] >= 'a' && word[1] <= 'z';
      if (macro || (word.size() > 1 && word[0] == '-' && name == "Bl")) {
        if (word == "Fl") {
          text += text.empty() ? "-" : " -";
          joins = true;
        }
        continue;
      }
      const bool punctuation =
          word.size() == 1 && std::string_view(".,;:)]?!").find(word[0]) != std::string_view::npos;
      if (!joins && !punctuation) text += ' ';
      text += plain(word);
      joins = false;
    }
    if (!text.empty()) add(text);
  }

  void add(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
    if (text.empty()) return;
    if (!paragraph_.empty()) paragraph_ += ' ';
    paragraph_ += text;
  }
  void add_line(const std::string& text) {
    end_paragraph(false);
    out_ += text;
    out_ += '\n';
  }
  void end_paragraph(bool blank) {
    if (!paragraph_.empty()) out_ += paragraph_ + "\n";
    paragraph_.clear();
    if (blank && !out_.empty() && !out_.ends_with("\n\n")) out_ += '\n';
  }

  std::string out_;
  std::string paragraph_;
  bool literal_ = false;
  bool table_format_ = false;
  bool ignored_block_ = false;
  std::string ignored_end_;
};

}  // namespace

std::string roff_text(std::string_view page) {
  Page out;
  for (size_t begin = 0; begin < page.size();) {
    const size_t end = std::min(page.find('\n', begin), page.size());
    std::string_view line = page.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    out.line(line);
    begin = end + 1;
  }
  return out.finish();
}

}  // namespace cachalot::data
