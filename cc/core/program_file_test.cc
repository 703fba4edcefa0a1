// Files of programs: a good one, files that are broken in known ways, and thousands that are broken by chance.
#include "cc/core/program_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "cc/core/program_infer.h"
#include "cc/core/program_text.h"
#include "cc/core/testing_program.h"

namespace dwsconv {
namespace {

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? std::string("\\\"") : c == '\n' ? std::string("\\n") : std::string(1, c);
  return quoted + "\"";
}

// What follows a header's length; `padding` elements of weights that no tensor covers are at the end.
std::string Header(const std::string& program) {
  Program parsed;
  EXPECT_EQ(ParseProgram(program, &parsed), "");
  std::string header = "{\"__metadata__\":{\"tf_dwsconv.program\":" + Quoted(program) + "}";
  for (const ProgramWeight& weight : parsed.weights) {
    header += "," + Quoted(weight.name) + ":{\"dtype\":\"F32\",\"shape\":" + ShowShape(weight.shape) +
              ",\"data_offsets\":[" + std::to_string(4 * weight.offset) + "," +
              std::to_string(4 * (weight.offset + Elements(weight.shape))) + "]}";
  }
  return header + "}";
}

std::string File(const std::string& header, int64_t weights) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + std::string(static_cast<size_t>(4 * weights), '\1');
}

std::string Read(const std::string& contents, LoadedProgram* loaded) {
  std::string path = ::testing::TempDir() + "/program_XXXXXX";
  const int file = mkstemp(path.data());
  EXPECT_GE(file, 0);
  EXPECT_EQ(write(file, contents.data(), contents.size()), static_cast<ssize_t>(contents.size()));
  close(file);
  const std::string error = ReadProgramFile(path, loaded);
  std::remove(path.c_str());
  return error;
}

TEST(ProgramFile, AGoodOne) {
  LoadedProgram loaded;
  ASSERT_EQ(Read(File(Header(EveryOp()), 400), &loaded), "");
  EXPECT_EQ(loaded.program.steps.size(), 23u);
  ASSERT_NE(loaded.weights, nullptr);
  EXPECT_EQ(loaded.weights[1599], '\1');
}

TEST(ProgramFile, BrokenOnes) {
  const std::string header = Header(EveryOp());
  LoadedProgram loaded;
  const auto has = [&](const std::string& contents, const std::string& wanted) {
    const std::string error = Read(contents, &loaded);
    EXPECT_NE(error.find(wanted), std::string::npos) << wanted << ": " << error;
  };
  has("", "8 bytes of a header's length");
  has("1234567", "8 bytes of a header's length");
  has(std::string(8, '\xff'), "the header's length must be at most");
  has(File(header, 399), "the weights must have 400 elements");
  has(File(header, 401), "the weights must have 400 elements");
  has(File("{}", 400), "this is no file of a program");
  has(File("[1]", 400), "this is no file of a program");
  has(File("{\"__metadata__\":{\"tf_dwsconv.program\":7}}", 400), "this is no file of a program");
  has(File(Replaced(header, "\"data_offsets\":[432,448]", "\"data_offsets\":[432,449]"), 400),
      "tensor \"bias\" of the file must have data_offsets [432,448]");
  has(File(Replaced(header, "\"bias\":{\"dtype\":\"F32\"", "\"bias\":{\"dtype\":\"F16\""), 400), "must have dtype F32");
  has(File(Replaced(header, "\"bias\":{\"dtype\"", "\"vias\":{\"dtype\""), 400),
      "tensor \"vias\" of the file must be a weight of the program");
  EXPECT_NE(ReadProgramFile("/nowhere/at/all", &loaded).find("cannot open"), std::string::npos);
  EXPECT_NE(ReadProgramFile("/dev", &loaded).find("must be a file"), std::string::npos);
}

// Bytes changed, cut off, numbers made huge, brackets repeated: an error or a program, never a crash. What is read all
// the same has to be a program that infers.
TEST(ProgramFile, BrokenByChance) {
  std::mt19937_64 random(17);
  const std::string header = Header(EveryOp());
  const auto at = [&](size_t size) { return static_cast<size_t>(random() % size); };
  const char* const pieces[] = {"9007199254740992",
                                "-1",
                                "18446744073709551615",
                                "1e308",
                                "[",
                                "]",
                                "{",
                                "}",
                                "null",
                                "\"",
                                "\\",
                                ",",
                                ":",
                                "0",
                                "1048576",
                                "true",
                                "\\u0000",
                                "\xff"};
  int good = 0, bad = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string text = header;
    for (size_t changes = 1 + at(3); changes > 0; --changes) {
      const size_t place = at(text.size());
      switch (at(5)) {
        case 0:
          text[place] = static_cast<char>(random());
          break;
        case 1:
          text.insert(place, pieces[at(std::size(pieces))]);
          break;
        case 2:
          text.erase(place, 1 + at(40));
          break;
        case 3: {  // a number for another
          const size_t digit = text.find_first_of("0123456789", place);
          if (digit == std::string::npos) break;
          const size_t end = text.find_first_not_of("0123456789", digit);
          text.replace(digit, end - digit, pieces[at(4)]);
          break;
        }
        default:
          text.insert(place, text.substr(at(text.size()), at(200)));
      }
    }
    Program program;
    const std::string error = ReadProgramHeader(text, 1600, &program);
    error.empty() ? ++good : ++bad;
    if (error.empty()) {
      EXPECT_EQ(CheckLoaded(program), "");
    }
  }
  EXPECT_GT(bad, 2500);
  EXPECT_GT(good, 10);  // a name, say
  LoadedProgram loaded;
  const std::string file = File(header, 400);
  for (int i = 0; i < 300; ++i) {
    std::string contents = file.substr(0, at(file.size()));
    if (i % 2 == 0) contents[at(std::min<size_t>(contents.size(), 8))] ^= static_cast<char>(1 << at(8));
    EXPECT_NE(Read(contents, &loaded), "");
  }
}

}  // namespace
}  // namespace dwsconv
