// Which instruction set is used, by its word and by the environment.
#include "cc/core/cpu_features.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace dwsconv {
namespace {

TEST(Isa, WordsThereAndBack) {
  for (Isa isa : kIsas) {
    Isa found = isa == Isa::kGeneric ? Isa::kAvx2 : Isa::kGeneric;
    EXPECT_TRUE(ParseIsa(IsaName(isa), &found));
    EXPECT_EQ(found, isa);
  }
  for (const char* word : {"", "AVX2", "avx", "avx2 ", "sse2"}) {
    Isa found;
    EXPECT_FALSE(ParseIsa(word, &found)) << word;
  }
}

TEST(Isa, TheVariableChoosesAmongThoseOfTheCpu) {
  const std::vector<Isa> supported = SupportedIsas();
  ASSERT_EQ(supported.front(), Isa::kGeneric);
  Isa chosen;
  for (const char* none : {"", static_cast<const char*>(nullptr)}) {
    none == nullptr ? unsetenv("DWSCONV_ISA") : setenv("DWSCONV_ISA", none, 1);
    EXPECT_EQ(ChooseIsa(&chosen), "");
    EXPECT_EQ(chosen, supported.back());
  }
  for (Isa isa : kIsas) {
    setenv("DWSCONV_ISA", IsaName(isa), 1);
    const std::string wrong = ChooseIsa(&chosen);
    if (IsaSupported(isa)) {
      EXPECT_EQ(wrong, "");
      EXPECT_EQ(chosen, isa);
    } else {
      EXPECT_NE(wrong.find("which this CPU lacks"), std::string::npos) << wrong;
    }
  }
  setenv("DWSCONV_ISA", "fastest", 1);
  EXPECT_EQ(ChooseIsa(&chosen), "DWSCONV_ISA is \"fastest\"; it must be generic, avx2, avx512 or amx");
  unsetenv("DWSCONV_ISA");
}

TEST(CpuFeatures, HoldTogether) {
  const CpuFeatures& cpu = GetCpuFeatures();
  EXPECT_EQ(&cpu, &GetCpuFeatures());
  EXPECT_GE(cpu.cores, 1);
  EXPECT_TRUE(cpu.avx2 || !cpu.avx512);
  EXPECT_TRUE(cpu.avx512 || !cpu.avx512_bf16);
  EXPECT_TRUE(cpu.avx512_bf16 || cpu.tiles != TileUnit::kAmx);
  EXPECT_EQ(cpu.tiles == TileUnit::kNone, !cpu.no_tiles.empty());
  for (Isa isa : kIsas) EXPECT_NE(WithoutTiles(isa), Isa::kAmx);
  for (int64_t bytes : {cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes}) EXPECT_GE(bytes, 0);
}

}  // namespace
}  // namespace dwsconv
