// Text out of HTML and manual pages, and what every text passes.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "data/extract/clean_text.h"
#include "data/extract/html_text.h"
#include "data/extract/roff_text.h"
#include "data/extract/sword_text.h"

namespace cachalot::data {
namespace {

std::string html(std::string_view page) { return clean_text(strip_pre_marks(html_text(page))); }

TEST(HtmlText, IsWhatAReaderSees) {
  EXPECT_EQ(
      html("<html><head><title>x</title></head><body><nav>menu <nav>sub</nav> more</nav>"
           "<h1>Whales &amp; <i>sea</i></h1><p>They   dive\n deep &#8212; &lt;2&#x6b;m&gt;.</p>"
           "<script>if (a < b) alert('<p>');</script><ul><li>one<li>two</ul>"
           "<footer>page 1</footer></body></html>"),
      "Whales & sea\n\nThey dive deep — <2km>.\n\n- one\n- two\n");
}

TEST(HtmlText, PreKeepsItsSpace) {
  EXPECT_EQ(html("<p>code:</p><pre><code>if x:\n    y = <span "
                 "class=\"a>b\">1</span>\n\nz</code></pre><p>end"),
            "code:\n\nif x:\n    y = 1\n\nz\n\nend\n");
}

TEST(HtmlText, TablesAreRowsWithTabs) {
  EXPECT_EQ(html("<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"),
            "a\tb\n1\t2\n");
}

TEST(HtmlText, SignsThatAreNoMarkupStay) {
  EXPECT_EQ(html("a < b && c &unknown; d &#xZZ; 3<4"), "a < b && c &unknown; d &#xZZ; 3<4\n");
}

// A quote opens only at the start of a value: the tokenizer's states of the HTML standard.
TEST(HtmlText, QuotesInsideNamesAndUnquotedValuesOpenNothing) {
  for (const char* tag :
       {"<p title=it's>",  "<a href=x'y>", "<a href=x\"y>", "<a b=c='>", "<p '>",
        "<p \">",          "<p x'y=1>",    "<p ='>",        "<p ='x=1>", "<p/='>",
        "<p a/='>",        "<p'>",         "</p'>",         "</p '>",    "<p title='a'b'>",
        "<p title='a'\">", "<p title=>",   "<p title= >",   "<br/'>",    "<p a=/'>",
        "<p\na\n=\nb'>"}) {
    EXPECT_EQ(html(std::string("<b>") + tag + "one</b> two"), "one two\n") << tag;
  }
  for (const char* tag : {"<a title='it>s'>", "<a title = \"a>'b\">", "<a x title\t=\n'>'>",
                          "<a x=1 title='>'>", "<a x='1'title='>'>", "<a x=it's title='>'>",
                          "<a / title='>'>", "<a\ttitle='>'/>", "</a title='>'>"}) {
    EXPECT_EQ(html(std::string("<b>") + tag + "one</b> two"), "one two\n") << tag;
  }
}

TEST(RoffText, IsAParagraphALine) {
  EXPECT_EQ(clean_text(roff_text(
                ".\\\" a comment\n.TH LS 1\n.SH NAME\nls \\- list \\fIfiles\\fP\n.SH SYNOPSIS\n"
                ".B ls\n[\\fB\\-a\\fR]\n.PP\nLists\nthe files.\n.TP\n.BR \\-a \", \" "
                "\\-\\-all\nAll of them.\n"
                ".nf\n  int x;\n  int y;\n.fi\nEnd.\n")),
            "NAME\n\nls - list files\n\nSYNOPSIS\n\nls [-a]\n\nLists the files.\n\n-a, --all All "
            "of them.\n\n"
            "  int x;\n  int y;\n\nEnd.\n");
}

TEST(RoffText, MacroDefinitionsPrintNothing) {
  EXPECT_EQ(clean_text(roff_text(".de Sp\n.if t .sp\n..\n.PP\ntext \\(lqq\\(rq\n")), "text “q”\n");
}

TEST(CleanText, GivesUtf8WithoutControls) {
  EXPECT_EQ(clean_text("caf\xE9 \xC3\xA9\x07  \n\n\n\nend\t\n"), "café é\n\nend\n");
  EXPECT_EQ(clean_text(std::string_view("a\0b", 3)), "ab\n");
  EXPECT_TRUE(looks_binary(std::string_view("a\0b", 3)));
}

TEST(SwordText, IsAParagraphAChapter) {
  EXPECT_EQ(
      clean_text(sword_text("$$$[ Module Heading ]\n$$$Jonah 1:1\n<title>The fish</title>Now the"
                            "<note type=\"x\">or: a</note> word\ncame<note>cut off\n$$$Jonah 1:2\n"
                            "Arise.\n$$$Jonah 2:1\nThen &amp; there.\n$$$\n")),
      "[ Module Heading ]\n\nJonah 1\n\nNow the word came Arise.\n\nJonah 2\n\nThen & there.\n");
  EXPECT_EQ(clean_text(sword_text("no heading\n$$$:\n$$")), "no heading $$\n");
}

TEST(RepeatedLines, MenusGoAndMarkedLinesStay) {
  std::vector<std::string> texts;
  for (int i = 0; i < 8; ++i) texts.push_back("Menu\n\x01True\nbody " + std::to_string(i) + "\n");
  drop_repeated_lines(texts, 8, '\x01');
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(texts[static_cast<size_t>(i)], "\x01True\nbody " + std::to_string(i) + "\n");
}

// Any bytes, broken pages too, give some text.
TEST(Extract, RandomMarkupNeverCrashes) {
  const char* parts[] = {"<",   ">",    "</",     "<pre", "<nav>", "</nav>", "<script",
                         "&#",  "&amp", ";",      "\"",   "'",     "\n.",    ".SH",
                         "\\f", "\\(",  "\\[",    "]",    ".de",   "..",     "x",
                         " ",   "\\",   ".It Fl", "-->",  "<!--",  "\x80",   "\xF0"};
  RngStream rng(3, RngPurpose::data, 0);
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (uint32_t n = rng.next_u32() % 60; n > 0; --n)
      text += parts[rng.next_u32() % std::size(parts)];
    (void)html(text);
    (void)clean_text(roff_text(text));
    (void)clean_text(sword_text(text));
  }
}

}  // namespace
}  // namespace cachalot::data
