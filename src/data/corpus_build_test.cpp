// Corpora out of packages that the tests build, from an archive server that is a shell script.
#include "data/corpus_build.h"

#include <gtest/gtest.h>
#include <xxhash.h>
#include <zlib.h>

#include <cstdlib>
#include <fstream>
#include <map>

#include "base/file.h"
#include "base/sha256.h"
#include "data/data_testing.h"
#include "data/document_reader.h"
#include "data/run_program.h"

namespace cachalot::data {
namespace {
namespace fs = std::filesystem;

using Files = std::map<std::string, std::string>;  // bytes by path

// What apt-get download does, from a folder.
constexpr const char* kAptGet = R"(#!/bin/sh
for last; do :; done
[ -f "$CACHALOT_TEST_REPOSITORY/$last.deb" ] || exit 100
cp "$CACHALOT_TEST_REPOSITORY/$last.deb" "${last%%=*}_${last#*=}_all.deb"
)";

std::string sentence(const std::string& about) {
  std::string text;
  for (int i = 0; i < 8; ++i)
    text += "The " + about + " is told of in line " + std::to_string(i) + ".\n";
  return text;
}

// As gzip and dictzip write it: the latter with an extra field in the header.
std::string gzipped(const std::string& text, bool extra_field = false) {
  z_stream zlib = {};
  EXPECT_EQ(deflateInit2(&zlib, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string field = "RA\x06\0\1\0\0\1\0\0";
  gz_header header = {};
  if (extra_field) {
    header.extra = reinterpret_cast<Bytef*>(field.data());
    header.extra_len = static_cast<uInt>(field.size());
    EXPECT_EQ(deflateSetHeader(&zlib, &header), Z_OK);
  }
  std::string out(text.size() + 1000, '\0');
  std::string in = text;
  zlib.next_in = reinterpret_cast<Bytef*>(in.data());
  zlib.avail_in = static_cast<uInt>(in.size());
  zlib.next_out = reinterpret_cast<Bytef*>(out.data());
  zlib.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&zlib, Z_FINISH), Z_STREAM_END);
  out.resize(zlib.total_out);
  deflateEnd(&zlib);
  return out;
}

void write_bytes(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> members(const std::string& file, const std::string& field) {
  std::vector<std::string> values;
  auto reader = DocumentReader::open(file, {.text_field = field});
  EXPECT_TRUE(reader.has_value()) << reader.error().to_string();
  std::string value;
  while (reader.has_value()) {
    const auto more = reader->next(&value);
    EXPECT_TRUE(more.has_value()) << more.error().to_string();
    if (!more || !*more) break;
    values.push_back(value);
  }
  return values;
}

class CorpusBuild : public DataFiles {
 protected:
  void SetUp() override {
    DataFiles::SetUp();
    if (fs::exists("/usr/bin/dpkg-deb")) {
      write_bytes(folder_ / "bin/apt-get", kAptGet);
      fs::permissions(folder_ / "bin/apt-get", fs::perms::owner_all);
      old_path_ = std::getenv("PATH");
      set_path(path("bin") + ":" + old_path_);
      ::setenv("CACHALOT_TEST_REPOSITORY", path("repository").c_str(), 1);
    } else {
      GTEST_SKIP() << "no dpkg-deb to make packages with";
    }
  }
  void TearDown() override {
    if (!old_path_.empty()) set_path(old_path_);
    DataFiles::TearDown();
  }
  static void set_path(const std::string& value) { ::setenv("PATH", value.c_str(), 1); }
  static bool have(const std::string& program) { return fs::exists("/usr/bin/" + program); }

  fs::path archive(const std::string& name) const {
    return folder_ / "repository" / (name + "=1:2.0-3.deb");
  }
  fs::path cached(const std::string& name, const std::string& kind) const {
    return folder_ / "cache" / kind / (name + "_" + locks_.at(name).substr(0, 16));
  }

  // Makes the package and locks it.
  void package(const std::string& name, const Files& files) {
    const fs::path tree = folder_ / "tree" / name;
    for (const auto& [file, bytes] : files) write_bytes(tree / file, bytes);
    fs::create_directories(tree);
    write_bytes(tree / "DEBIAN/control",
                "Package: " + name +
                    "\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: none\nDescription: none\n");
    fs::create_directories(folder_ / "repository");
    const auto made = run_program(
        {.argv = {"dpkg-deb", "--root-owner-group", "-b", tree.string(), archive(name).string()},
         .debian_package = "dpkg"});
    ASSERT_TRUE(made.has_value()) << made.error().to_string();
    lock(name);
  }
  void lock(const std::string& name) { locks_[name] = sha256_hex(bytes_of(archive(name))); }

  // A build of the parts, given as JSON.
  Result<CorpusBuildSummary> build(const std::string& parts, const std::string& out = "out",
                                   int num_threads = 2, const std::string& cache = "cache") {
    write_bytes(folder_ / "corpus.json", "{\"mine\": [" + parts + "]}");
    std::string lock;
    for (const auto& [name, sha256] : locks_) {
      lock += (lock.empty() ? "\"" : ", \"") + name +
              "\": {\"version\": \"1:2.0-3\", \"architecture\": \"all\", \"sha256\": \"" + sha256 +
              "\", \"licence\": \"CC0\", \"permissive\": " +
              (name.starts_with("copyleft") ? "false" : "true") + "}";
    }
    write_bytes(folder_ / "lock.json", "{\"packages\": {" + lock + "}}");
    CACHALOT_ASSIGN_OR_RETURN(const CorpusRecipe recipe,
                              read_recipe(path("corpus.json"), path("lock.json"), "mine"));
    ThreadPool threads(num_threads);
    return build_corpus(recipe,
                        {.out = path(out),
                         .cache = path(cache),
                         .permissive_only = permissive_only_,
                         .progress = {}},
                        threads);
  }
  std::string train(const std::string& out = "out") const {
    return path(out + "/train-00000.jsonl.zst");
  }

  std::map<std::string, std::string> locks_;  // SHA-256 by package
  bool permissive_only_ = false;
  std::string old_path_;
};

constexpr const char* kPlain =
    R"({"package": "whales", "kind": "text", "include": ["usr/share/doc/*"]})";

TEST_F(CorpusBuild, KindsOfFilesBecomeTheirText) {
  Files pages;
  for (int i = 0; i < 9; ++i) {
    pages["usr/share/doc/pages/page" + std::to_string(i) + ".html"] =
        "<html><head><title>t</title></head><body><p>The menu of all pages</p><pre>same "
        "answer</pre>"
        "<p>" +
        sentence("page" + std::to_string(i)) + "</p></body></html>";
  }
  package("pages", pages);
  package(
      "manual",
      {{"usr/share/man/man1/dive.1.gz",
        gzipped(".TH DIVE 1\n.SH NAME\ndive \\- go \\fIdown\\fP\n.PP\n" + sentence("manual"))}});
  package("words", {{"usr/share/dictd/words.dict.dz", gzipped(sentence("dictionary"), true)}});
  package("whales", {{"usr/share/doc/whales/a.txt", sentence("sea")},
                     {"usr/share/doc/whales/b.txt.gz", gzipped(sentence("ice") + "caf\xE9\n")},
                     {"usr/share/doc/whales/copy.txt", sentence("sea")},
                     {"usr/share/doc/whales/short.txt", "too short\n"},
                     {"usr/share/doc/whales/binary.txt", std::string(1, '\0') + sentence("nul")},
                     {"usr/share/doc/whales/changelog.gz", gzipped(sentence("change"))},
                     {"usr/share/doc/whales/copyright", sentence("right")},
                     {"usr/share/doc/whales/left/out.txt", sentence("exclusion")},
                     {"usr/share/other/c.txt", sentence("other place")}});
  fs::create_symlink("/etc/passwd", folder_ / "tree/whales/usr/share/doc/whales/link.txt");
  package("whales", {});
  package("foreign", {{"f.txt", sentence("foreign land")}});

  const auto summary = build(
      R"({"package": "pages", "kind": "html", "include": ["*.html"]},
         {"package": "manual", "kind": "roff", "include": ["usr/share/man/*"]},
         {"package": "words", "kind": "dict", "include": ["usr/share/dictd/*.dz"]},
         {"package": "whales", "kind": "text", "include": ["usr/share/doc/*"], "exclude": ["*/left/*"]},
         {"package": "foreign", "kind": "text", "include": ["*"], "held_out": true})");
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  EXPECT_EQ(summary->num_documents, 9 + 1 + 1 + 2 + 1);

  Files texts;
  const std::vector<std::string> paths = members(train(), "path"), told = members(train(), "text");
  ASSERT_EQ(paths.size(), told.size());
  for (size_t i = 0; i < paths.size(); ++i) texts[paths[i]] = told[i];
  ASSERT_EQ(texts.size(), 13u);
  // A paragraph is a line; the menu is gone, what stands in pre is not.
  std::string joined = sentence("page3");
  std::replace(joined.begin(), joined.end(), '\n', ' ');
  joined.back() = '\n';
  EXPECT_EQ(texts["usr/share/doc/pages/page3.html"], "same answer\n\n" + joined);
  joined = sentence("manual");
  std::replace(joined.begin(), joined.end(), '\n', ' ');
  joined.back() = '\n';
  EXPECT_EQ(texts["usr/share/man/man1/dive.1.gz"], "NAME\n\ndive - go down\n\n" + joined);
  EXPECT_EQ(texts["usr/share/dictd/words.dict.dz"], sentence("dictionary"));
  EXPECT_EQ(texts["usr/share/doc/whales/a.txt"], sentence("sea"));
  EXPECT_EQ(texts["usr/share/doc/whales/b.txt.gz"], sentence("ice") + "café\n");
  EXPECT_EQ(members(path("out/outofdomain-foreign.jsonl.zst"), "text"),
            std::vector<std::string>{sentence("foreign land")});
  int64_t bytes = 0;
  for (const auto& [file, text] : texts) bytes += static_cast<int64_t>(text.size());
  EXPECT_EQ(summary->text_bytes, bytes);
  EXPECT_EQ(summary->held_out_bytes, static_cast<int64_t>(sentence("foreign land").size()));
  EXPECT_EQ(members(train(), "licence"), std::vector<std::string>(13, "CC0"));
}

// Twice from nothing, by other numbers of threads.
TEST_F(CorpusBuild, TheSameLockGivesTheSameBytes) {
  Files files;
  for (int i = 0; i < 300; ++i)
    files["usr/share/doc/whales/" + std::to_string(i) + ".txt"] = sentence(std::to_string(i));
  package("whales", files);
  ASSERT_TRUE(build(kPlain, "one", 1, "cache1").has_value());
  ASSERT_TRUE(build(kPlain, "two", 3, "cache2").has_value());
  // Over what stands there.
  ASSERT_TRUE(build(kPlain, "two", 2, "cache2").has_value());
  int num_files = 0;
  for (const auto& entry : fs::directory_iterator(path("one"))) {
    ++num_files;
    const std::string name = entry.path().filename().string();
    EXPECT_EQ(sha256_hex(bytes_of(entry.path())), sha256_hex(bytes_of(folder_ / "two" / name)))
        << name;
  }
  EXPECT_EQ(num_files, 3);
  // Held out are the files whose path says so, and no others.
  const auto is_held_out = [](const std::string& file) {
    const std::string key = "whales/" + file;
    return XXH3_64bits(key.data(), key.size()) % 100 == 99;
  };
  const auto kept = members(train("one"), "path"),
             held_out = members(path("one/heldout.jsonl.zst"), "path");
  EXPECT_EQ(kept.size() + held_out.size(), 300u);
  EXPECT_TRUE(std::none_of(kept.begin(), kept.end(), is_held_out));
  EXPECT_TRUE(std::all_of(held_out.begin(), held_out.end(), is_held_out));
}

TEST_F(CorpusBuild, ACapTakesTheSameFilesInAnyPackageOrder) {
  Files files;
  for (int i = 0; i < 40; ++i)
    files["usr/share/doc/whales/" + std::to_string(i) + ".txt"] = sentence(std::to_string(i));
  package("whales", files);
  const std::string capped =
      R"({"package": "whales", "kind": "text", "include": ["usr/share/doc/*"], "max_bytes": 3000})";
  const auto summary = build(capped);
  ASSERT_TRUE(summary.has_value());
  const int64_t bytes = summary->text_bytes + summary->held_out_bytes;
  EXPECT_LE(bytes, 3000);
  EXPECT_GT(bytes, 3000 - static_cast<int64_t>(sentence("00").size() / 8));  // cut at a line's end
  for (const std::string& text : members(train(), "text")) EXPECT_TRUE(text.ends_with(".\n"));
}

TEST_F(CorpusBuild, PermissiveOnlyLeavesTheRestOut) {
  package("whales", {{"usr/share/doc/a.txt", sentence("sea")}});
  package("copyleft", {{"usr/share/doc/b.txt", sentence("law")}});
  permissive_only_ = true;
  const auto summary =
      build(std::string(kPlain) + R"(, {"package": "copyleft", "kind": "text", "include": ["*"]})");
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  EXPECT_EQ(members(train(), "text"), std::vector<std::string>{sentence("sea")});
  EXPECT_EQ(bytes_of(path("out/manifest.json")).find("copyleft"), std::string::npos);
}

TEST_F(CorpusBuild, AnotherArchiveThanTheLockedOneIsRefused) {
  package("whales", {{"usr/share/doc/a.txt", sentence("sea")}});
  const std::string found = locks_["whales"], expected(64, '5');
  locks_["whales"] = expected;
  const Status error = build(kPlain).error();
  EXPECT_EQ(error.code(), StatusCode::data_loss);
  for (const std::string& part :
       {std::string("whales 1:2.0-3"), "expected SHA-256 " + expected, "found " + found}) {
    EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
  }
  EXPECT_FALSE(fs::exists(path("out/manifest.json")));
  EXPECT_FALSE(fs::exists(cached("whales", "unpacked")));
}

TEST_F(CorpusBuild, ATruncatedArchiveIsRefused) {
  package("whales", {{"usr/share/doc/a.txt", sentence("sea")}});
  const std::string whole = bytes_of(archive("whales"));
  // Not what is locked.
  write_bytes(archive("whales"), whole.substr(0, whole.size() / 2));
  EXPECT_EQ(build(kPlain).error().code(), StatusCode::data_loss);
  // Locked as it is: it cannot be unpacked.
  lock("whales");
  const Status error = build(kPlain).error();
  EXPECT_EQ(error.code(), StatusCode::data_loss);
  EXPECT_NE(error.message().find("whales 1:2.0-3: expected an archive"), std::string::npos)
      << error.message();
  EXPECT_FALSE(fs::exists(cached("whales", "unpacked")));
  // Nothing of it is left in the way of the right one.
  write_bytes(archive("whales"), whole);
  lock("whales");
  EXPECT_TRUE(build(kPlain).has_value());
}

// What a machine that went down leaves: a cut archive, one without a byte, or a download or an
// unpacking under way.
TEST_F(CorpusBuild, APartialCacheIsMadeWhole) {
  package("whales", {{"usr/share/doc/a.txt", sentence("sea")}});
  const std::string whole = bytes_of(archive("whales"));
  for (const size_t size : {size_t{0}, whole.size() / 2, whole.size() - 1}) {
    fs::remove_all(path("cache"));
    write_bytes(cached("whales", "archives") / "whales_2.deb", whole.substr(0, size));
    write_bytes(cached("whales", "archives").string() + ".aside/whales_2.deb", "left");
    write_bytes(cached("whales", "unpacked").string() + ".aside/usr/share/doc/left.txt",
                sentence("past"));
    ASSERT_TRUE(build(kPlain).has_value());
    EXPECT_EQ(members(train(), "text"), std::vector<std::string>{sentence("sea")}) << size;
    EXPECT_EQ(bytes_of(cached("whales", "archives") / "whales_1:2.0-3_all.deb"), whole);
  }
  // A whole one is taken as it is, without any program that fetches.
  fs::remove_all(cached("whales", "unpacked"));
  fs::remove_all(path("repository"));
  EXPECT_TRUE(build(kPlain).has_value());
  // A damaged one that cannot be fetched again: both are told.
  fs::remove_all(cached("whales", "unpacked"));
  write_bytes(cached("whales", "archives") / "whales_1:2.0-3_all.deb", whole.substr(1));
  const Status error = build(kPlain).error();
  EXPECT_EQ(error.code(), StatusCode::data_loss);
  EXPECT_NE(error.message().find("expected SHA-256"), std::string::npos) << error.message();
  EXPECT_NE(error.message().find("fetching it again"), std::string::npos) << error.message();
}

TEST_F(CorpusBuild, AVersionThatIsGoneIsNamed) {
  package("whales", {{"usr/share/doc/a.txt", sentence("sea")}});
  fs::remove(archive("whales"));
  const Status error = build(kPlain).error();
  EXPECT_EQ(error.code(), StatusCode::not_found);
  EXPECT_NE(error.message().find("whales: expected version 1:2.0-3"), std::string::npos)
      << error.message();
}

// Every program that a build runs, with a PATH on which there is none.
TEST_F(CorpusBuild, MissingProgramsNameTheirPackage) {
  package("whales", {{"usr/share/doc/a.txt", sentence("sea")}, {"b.pdf", sentence("pdf")}});
  fs::create_directories(path("empty"));
  const auto expect_missing = [&](const std::string& parts, const std::string& program,
                                  const std::string& debian_package) {
    set_path(path("empty"));
    const Status error = build(parts).error();
    set_path(path("bin") + ":" + old_path_);
    EXPECT_EQ(error.code(), StatusCode::not_found) << error.message();
    EXPECT_NE(
        error.message().find(program + ": expected this program, found none (Debian package " +
                             debian_package + ")"),
        std::string::npos)
        << error.message();
  };
  expect_missing(kPlain, "apt-get", "apt");
  ASSERT_TRUE(build(kPlain).has_value());
  fs::remove_all(cached("whales", "unpacked"));
  expect_missing(kPlain, "dpkg-deb", "dpkg");
  ASSERT_TRUE(build(kPlain).has_value());
  expect_missing(R"({"package": "whales", "kind": "pdf", "include": ["*.pdf"]})", "pdftotext",
                 "poppler-utils");
  expect_missing(R"({"package": "whales", "kind": "sword", "include": ["Whales"]})", "mod2imp",
                 "libsword-utils");
  // Text, HTML, manual pages and dictionaries need no program once they are unpacked.
  set_path(path("empty"));
  for (const std::string kind : {"text", "html", "roff", "dict"}) {
    EXPECT_TRUE(
        build(R"({"package": "whales", "include": ["usr/share/doc/*"], "kind": ")" + kind + "\"}")
            .has_value());
  }
}

// One page of text as PDF, with the table of offsets that readers start from.
std::string pdf_page(const std::vector<std::string>& lines) {
  std::string content = "BT /F 12 Tf 14 TL 72 720 Td\n";
  for (const std::string& line : lines) content += "(" + line + ") Tj T*\n";
  content += "ET";
  const std::string objects[] = {
      "<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
      "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F 5 0 "
      "R>>>>>>",
      "<</Length " + std::to_string(content.size()) + ">>stream\n" + content + "\nendstream",
      "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"};
  std::string out = "%PDF-1.4\n", table = "0000000000 65535 f \n";
  for (size_t i = 0; i < std::size(objects); ++i) {
    std::string offset = std::to_string(out.size());
    table += std::string(10 - offset.size(), '0') + offset + " 00000 n \n";
    out += std::to_string(i + 1) + " 0 obj" + objects[i] + "\nendobj\n";
  }
  const std::string start = std::to_string(out.size());
  return out + "xref\n0 6\n" + table + "trailer<</Size 6/Root 1 0 R>>\nstartxref\n" + start +
         "\n%%EOF\n";
}

TEST_F(CorpusBuild, FilesOfATarInAPackage) {
  write_bytes(folder_ / "inner/src-1/mm/slab.c", sentence("slab"));
  write_bytes(folder_ / "inner/src-1/mm/slab.s", sentence("assembly"));
  const auto packed =
      run_program({.argv = {"tar", "-cf", path("src.tar.gz"), "-z", "-C", path("inner"), "src-1"},
                   .debian_package = "tar"});
  ASSERT_TRUE(packed.has_value()) << packed.error().to_string();
  package("kernel", {{"usr/src/src.tar.gz", bytes_of(folder_ / "src.tar.gz")}});
  const auto part = [](const std::string& tar) {
    return R"({"package": "kernel", "kind": "text", "include": ["src-1/*.[ch]"], "tar": ")" + tar +
           "\"}";
  };
  const auto summary = build(part("usr/src/src.tar.gz"));
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  EXPECT_EQ(members(train(), "path"), std::vector<std::string>{"src-1/mm/slab.c"});
  EXPECT_EQ(members(train(), "text"), std::vector<std::string>{sentence("slab")});

  Status error = build(part("usr/src/other.tar")).error();
  EXPECT_EQ(error.code(), StatusCode::not_found);
  EXPECT_NE(error.message().find("usr/src/other.tar: expected a tar archive"), std::string::npos)
      << error.message();
  package("kernel", {{"usr/src/src.tar.gz", "no archive"}});
  error = build(part("usr/src/src.tar.gz")).error();
  EXPECT_EQ(error.code(), StatusCode::data_loss);
  EXPECT_NE(error.message().find("usr/src/src.tar.gz: expected an archive"), std::string::npos)
      << error.message();
}

TEST_F(CorpusBuild, PdfGoesThroughPdftotext) {
  if (!have("pdftotext")) GTEST_SKIP() << "no pdftotext";
  const std::vector<std::string> lines(6, "Whales breathe air and sleep with half a brain.");
  package("whales", {{"usr/share/doc/a.pdf", pdf_page(lines)}});
  const std::string part = R"({"package": "whales", "kind": "pdf", "include": ["*.pdf"]})";
  const auto summary = build(part);
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  std::string expected;
  for (const std::string& line : lines) expected += line + "\n";
  EXPECT_EQ(members(train(), "text"), std::vector<std::string>{expected});
  // A file that is no PDF is an error that names it.
  package("whales", {{"usr/share/doc/b.pdf", sentence("no pdf")}});
  const Status error = build(part).error();
  EXPECT_EQ(error.code(), StatusCode::io_error);
  EXPECT_NE(error.message().find("b.pdf"), std::string::npos) << error.message();
}

TEST_F(CorpusBuild, SwordGoesThroughMod2imp) {
  if (!have("mod2imp") || !have("imp2vs")) GTEST_SKIP() << "no libsword-utils";
  std::string imp;
  for (int verse = 1; verse <= 5; ++verse) {
    imp += "$$$Jonah 1:" + std::to_string(verse) + "\n<w lemma=\"x\">And the great fish</w> swam " +
           "on<note>or: away</note>, as the story tells in verse " + std::to_string(verse) + ".\n";
  }
  write_bytes(folder_ / "whales.imp", imp);
  const fs::path module = folder_ / "tree/whales/usr/share/sword/modules/texts/rawtext/whales";
  fs::create_directories(module);
  const auto made = run_program({.argv = {"imp2vs", path("whales.imp"), "-o", module.string()},
                                 .debian_package = "libsword-utils"});
  ASSERT_TRUE(made.has_value()) << made.error().to_string();
  package("whales",
          {{"usr/share/sword/mods.d/whales.conf",
            "[Whales]\nDataPath=./modules/texts/rawtext/whales/\nModDrv=RawText\nSourceType=OSIS\n"
            "Encoding=UTF-8\nVersification=KJV\nDescription=Whales\nLang=en\n"}});
  const auto summary = build(R"({"package": "whales", "kind": "sword", "include": ["Whales"]})");
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  const std::vector<std::string> texts = members(train(), "text");
  ASSERT_EQ(texts.size(), 1u);
  EXPECT_NE(
      texts[0].find("Jonah 1\n\nAnd the great fish swam on, as the story tells in verse 1. And"),
      std::string::npos)
      << texts[0];
  const Status error =
      build(R"({"package": "whales", "kind": "sword", "include": ["Other"]})").error();
  EXPECT_EQ(error.code(), StatusCode::io_error);
  EXPECT_NE(error.message().find("mod2imp Other"), std::string::npos) << error.message();
}

// Also beside one that takes files, and where all that it would take is left out.
TEST_F(CorpusBuild, APatternThatTakesNothingIsAnError) {
  package("whales", {{"usr/share/doc/a.txt", sentence("sea")},
                     {"usr/share/man/b.txt", sentence("ice")},
                     {"usr/share/news/changelog.txt", sentence("change")}});
  const std::string kinds[] = {"text", "html", "roff", "dict", "pdf"};
  for (const std::string& kind : kinds) {
    for (const std::string pattern : {"usr/share/docs/*", "usr/share/man/*", "*/news/*"}) {
      const Status error = build(R"({"package": "whales", "kind": ")" + kind +
                                 R"(", "include": ["usr/share/doc/*", ")" + pattern +
                                 R"("], "exclude": ["*/man/*"]})")
                               .error();
      EXPECT_EQ(error.code(), StatusCode::not_found);
      EXPECT_EQ(error.message(),
                "whales: include \"" + pattern + "\": expected files to take, found none");
    }
  }
  EXPECT_FALSE(fs::exists(path("out/manifest.json")));
  EXPECT_TRUE(build(kPlain).has_value());
}

TEST_F(CorpusBuild, WhatCannotBeReadNamesTheFile) {
  const std::string whole = gzipped(sentence("ice"));
  package("whales", {{"usr/share/doc/cut.txt.gz", whole.substr(0, whole.size() - 9)}});
  const Status error = build(kPlain).error();
  EXPECT_EQ(error.code(), StatusCode::data_loss);
  EXPECT_NE(error.message().find("usr/share/doc/cut.txt.gz"), std::string::npos);
  EXPECT_FALSE(fs::exists(path("out/manifest.json")));
}

// File names are bytes; a line of the corpus is JSON whatever they are.
TEST_F(CorpusBuild, FileNamesMayBeNoUtf8) {
  package("whales", {{"usr/share/doc/caf\xE9.txt", sentence("sea")}});
  const auto summary = build(kPlain);
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  EXPECT_EQ(members(train(), "text"), std::vector<std::string>{sentence("sea")});
  EXPECT_EQ(members(train(), "path"), std::vector<std::string>{"usr/share/doc/café.txt"});
}

}  // namespace
}  // namespace cachalot::data
