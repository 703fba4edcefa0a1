// The file of tuned plans: lines there and back, and what a file that nobody should trust can do.
#include "cc/plan/tuned_plans.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "cc/plan/plan_key.h"
#include "cc/plan/testing_chains.h"

namespace dwsconv {
namespace {

// A folder for the file, which the environment names.
class TunedPlans : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "tuned_plans_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/plans.txt";
    setenv("DWSCONV_PLAN_CACHE", path_.c_str(), 1);
  }
  void TearDown() override {
    unlink(path_.c_str());
    rmdir(folder_.c_str());
    setenv("DWSCONV_PLAN_CACHE", "off", 1);
    ReloadTunedPlans(false);
  }

  // Writes the lines below the header, reads the file anew, and returns how many plans it has.
  int64_t Load(const std::vector<std::string>& lines) {
    std::ofstream file(path_);
    file << kTunedPlansHeader << "\n";
    for (const std::string& line : lines) file << line << "\n";
    file.close();
    return ReloadTunedPlans(false);
  }

  // Of the first plan that the planner itself would not make: half its pixels, or half its rows.
  static PlanChoice Half(const Chain& p, const Machine& m) {
    PlanChoice choice = ChoiceOf(MakePlan(p, m));
    choice.block_pixels = std::max<int64_t>(1, choice.block_pixels / 2);
    choice.block_channels = p.K;
    choice.rows = choice.channels < p.C || choice.by_channels ? p.Ho : std::max<int64_t>(1, choice.rows / 2);
    choice.threads = 1;
    choice.stream = !choice.stream;
    return choice;
  }

  std::string folder_, path_;
};

TEST_F(TunedPlans, ALineThereAndBack) {
  Draw draw(1);
  std::vector<Chain> chains;
  std::vector<Machine> machines;
  std::vector<std::string> lines;
  for (int i = 0; i < 300; ++i) {
    chains.push_back(i % 2 == 0 ? RandomChain(&draw) : RandomExpanded(&draw));
    machines.push_back(RandomMachine(&draw));
    lines.push_back(TunedPlanLine(chains[i], machines[i], Half(chains[i], machines[i])));
    if (i % 3 == 0) lines.back() += " # 1.3 times as fast";
  }
  const int64_t used = TunedPlansUsed();
  EXPECT_EQ(Load(lines), 300);
  for (size_t i = 0; i < chains.size(); ++i) {
    Plan expected, found;
    ASSERT_EQ(ApplyPlanChoice(chains[i], machines[i], Half(chains[i], machines[i]), &expected), "");
    ASSERT_TRUE(FindTunedPlan(chains[i], machines[i], &found)) << lines[i];
    EXPECT_EQ(found, expected) << lines[i];
    EXPECT_TRUE(found.tuned);
  }
  EXPECT_EQ(TunedPlansUsed() - used, 300);
}

TEST_F(TunedPlans, AreOfTheirChainAndMachineAlone) {
  const Chain p = SameChain(2, 30, 28, 96, 160, 3);
  Machine m;
  m.threads = 4;
  ASSERT_EQ(Load({TunedPlanLine(p, m, Half(p, m))}), 1);
  Plan plan;
  ASSERT_TRUE(FindTunedPlan(p, m, &plan));
  // What the plan does not depend on.
  Chain same = p;
  same.mid.kind = ActivationKind::kGelu, same.has_bias = same.has_residual = true, same.layout = Layout::kNCHW;
  EXPECT_TRUE(FindTunedPlan(same, m, &plan));
  const PlanKey key = PlanKeyOf(p, m);
  Chain q = p;
  for (int64_t* field : {&q.N, &q.H, &q.W, &q.C, &q.M, &q.K, &q.R, &q.S, &q.stride_h, &q.stride_w, &q.dilation_h,
                         &q.dilation_w, &q.pad_top, &q.pad_left, &q.Ho, &q.Wo, &q.E}) {
    ++*field;
    EXPECT_NE(PlanKeyOf(q, m), key);
    EXPECT_FALSE(FindTunedPlan(q, m, &plan)) << Told(q, m);
    --*field;
  }
  Machine n = m;
  for (int* field : {&n.threads, &n.vector_floats, &n.tile_pixels, &n.tile_channels}) {
    ++*field;
    EXPECT_NE(PlanKeyOf(p, n), key);
    EXPECT_FALSE(FindTunedPlan(p, n, &plan)) << Told(p, n);
    --*field;
  }
}

TEST_F(TunedPlans, TheLastLineOfAChainCounts) {
  const Chain p = SameChain(1, 32, 32, 16, 64, 3);
  const Machine m;
  ASSERT_EQ(Load({TunedPlanLine(p, m, {4, 64, 1, false}), TunedPlanLine(p, m, {8, 64, 1, true})}), 1);
  Plan plan;
  ASSERT_TRUE(FindTunedPlan(p, m, &plan));
  EXPECT_EQ(plan.block_pixels, 8);
  EXPECT_TRUE(plan.stream);
}

TEST_F(TunedPlans, BadLinesAreLeftOutAndGoodOnesStay) {
  const Chain p = SameChain(1, 32, 32, 16, 64, 3);
  const Machine m;
  const std::string good = TunedPlanLine(p, m, {4, 64, 1, false});
  const auto with = [&](const std::string& word, const std::string& changed) {
    std::string line = good;
    EXPECT_NE(line.find(word), std::string::npos) << word;
    return line.replace(line.find(word), word.size(), changed);
  };
  const std::vector<std::string> bad = {
      "block_pixels=4",
      "cpu=another/1/2/3 isa=0",
      good.substr(0, good.size() / 2),
      good + "x",
      good + " block_pixels=4",
      with(" N=1 ", " N=0 "),
      with(" N=1 ", " N=-1 "),
      with(" N=1 ", " N= "),
      with(" N=1 ", " N=1x "),
      with(" N=1 ", " "),
      with(" : ", " "),
      with(" z_bytes=4", " z_bytes=3"),
      with("vector_floats=4", "vector_floats=0"),
      // 2^64 + 1 is 1 if it wraps around; sizes whose product does.
      with(" N=1 ", " N=18446744073709551617 "),
      with(" N=1 ", " N=99999999999999999999999999 "),
      with(" N=1 H=32 W=32 C=16 M=1 K=64", " N=268435456 H=32 W=32 C=16 M=1 K=268435456"),
      with("block_pixels=4", "block_pixels=0"),
      with("block_pixels=4", "block_pixels=1025"),  // of 1024
      with("block_channels=64", "block_channels=65"),
      with("block_channels=64", "block_channels=12"),  // no whole tile of 8
      with("block_channels=64", "block_channels=0"),
      with("threads=1 stream", "threads=2 stream"),  // of one
      with("threads=1 stream", "threads=0 stream"),
  };
  for (const std::string& line : bad) EXPECT_EQ(Load({line}), 0) << line;
  std::vector<std::string> all = bad;
  all.insert(all.begin() + 5, good);
  EXPECT_EQ(Load(all), 1);
  Plan plan;
  ASSERT_TRUE(FindTunedPlan(p, m, &plan));
  EXPECT_EQ(plan.block_pixels, 4);
}

TEST_F(TunedPlans, FilesThatAreNone) {
  const Chain p = SameChain(1, 32, 32, 16, 64, 3);
  const std::string good = TunedPlanLine(p, Machine(), {4, 64, 1, false});
  EXPECT_EQ(ReloadTunedPlans(false), 0) << "there is no file";
  ASSERT_EQ(Load({good}), 1);
  std::ofstream(path_) << "# another program's\n" << good << "\n";
  EXPECT_EQ(ReloadTunedPlans(false), 0) << "another header";
  std::ofstream(path_) << "";
  EXPECT_EQ(ReloadTunedPlans(false), 0) << "empty";
  ASSERT_EQ(Load({good, std::string(4 << 20, '#')}), 0) << "larger than any tuner writes";
  std::ofstream(path_) << kTunedPlansHeader << "\n" << good;
  EXPECT_EQ(ReloadTunedPlans(false), 1) << "no end of line";
  unlink(path_.c_str());
  ASSERT_EQ(mkdir(path_.c_str(), 0700), 0);
  EXPECT_EQ(ReloadTunedPlans(false), 0) << "a folder";
  rmdir(path_.c_str());
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(ReloadTunedPlans(false), 0) << "a pipe, which nobody writes to";
}

TEST_F(TunedPlans, WhereTheFileIs) {
  EXPECT_EQ(TunedPlansPath(), path_);
  for (const char* none : {"", "off"}) {
    setenv("DWSCONV_PLAN_CACHE", none, 1);
    EXPECT_EQ(TunedPlansPath(), "") << none;
  }
  unsetenv("DWSCONV_PLAN_CACHE");
  setenv("XDG_CACHE_HOME", "/x", 1);
  setenv("HOME", "/h", 1);
  EXPECT_EQ(TunedPlansPath(), "/x/tf_dwsconv/plans-v1.txt");
  setenv("XDG_CACHE_HOME", "relative", 1);
  EXPECT_EQ(TunedPlansPath(), "/h/.cache/tf_dwsconv/plans-v1.txt");
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(TunedPlansPath(), "/h/.cache/tf_dwsconv/plans-v1.txt");
}

TEST(ApplyPlanChoice, SaysWhatIsWrong) {
  const Chain p = SameChain(1, 8, 8, 16, 40, 3);
  Machine m;
  m.threads = 2;
  Plan plan;
  EXPECT_EQ(ApplyPlanChoice(p, m, {64, 40, 2, true}, &plan), "");
  EXPECT_TRUE(plan.stream);
  EXPECT_EQ(plan.tasks, 1);
  EXPECT_EQ(plan.threads, 1);  // there is no task for a second one
  EXPECT_EQ(ApplyPlanChoice(p, m, {65, 40, 2, true}, &plan), "block_pixels must be 1 to 64 (Ho*Wo), but is 65");
  EXPECT_EQ(ApplyPlanChoice(p, m, {64, 44, 2, true}, &plan),
            "block_channels must be 40 (K) or less and a multiple of 8, but is 44");
  EXPECT_EQ(ApplyPlanChoice(p, m, {64, 40, 3, true}, &plan), "threads must be 1 to 2, but is 3");
  Chain expanded = SameChain(1, 8, 8, 64, 40, 3);
  expanded.E = 16;
  const auto strips = [&](int64_t rows, int64_t channels, bool by_channels) {
    return ApplyPlanChoice(expanded, m, {0, 0, 2, false, rows, channels, by_channels}, &plan);
  };
  EXPECT_EQ(strips(3, 64, false), "");
  EXPECT_EQ(plan.tasks, 4);  // of 2 rows: as many for each thread
  EXPECT_EQ(strips(8, 16, true), "");
  EXPECT_EQ(plan.tasks, 4);
  EXPECT_EQ(strips(9, 64, false), "rows must be 1 to 8 (Ho), but is 9");
  EXPECT_EQ(strips(8, 12, false), "channels must be 64 (C) or less and a multiple of 8, but is 12");
  EXPECT_EQ(strips(4, 16, false), "rows must be 8 (Ho) where a task does not take all channels, but is 4");
  expanded.M = 2;
  EXPECT_EQ(strips(8, 16, false),
            "channels must be 64 (C), with by_channels 0, where the channels of Z cannot be cut, but is 16");
  expanded = SameChain(1, 600, 600, 512, 40, 3);
  expanded.E = 16;
  EXPECT_EQ(strips(1, 512, false), "");
  EXPECT_NE(strips(300, 512, false).find("at most 17825792 bytes"), std::string::npos);
  const Chain wide = SameChain(1, 512, 512, 512, 40, 3);
  EXPECT_NE(ApplyPlanChoice(wide, m, {512 * 512, 40, 2, true}, &plan).find("for the scratch memory to stay below"),
            std::string::npos);
}

}  // namespace
}  // namespace dwsconv
