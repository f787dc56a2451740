// A command line in front of a fake coordinator that knows one finished job.

#ifndef TESTS_CLIENT_CLI_FIXTURE_H_
#define TESTS_CLIENT_CLI_FIXTURE_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli.h"
#include "tests/client/fake_control_client.h"

namespace vitscale {

inline constexpr char kJob[] = R"(
name: tiny
model: {custom: {patch: 4, width: 32, depth: 2, heads: 2, mlp_width: 64}, image_size: 16, channels: 1, classes: 4}
data: {train: {format: synthetic, synthetic_images: 1024}}
optimizer: {lr: 1e-3}
schedule: {total: 20 steps}
batch: {global: 32}
)";

class CliTest : public testing::Test {
 protected:
  CliTest() {
    AddJob("job1", "tiny", v1::JOB_STATE_SUCCEEDED);
    for (int step = 1; step <= 20; ++step) {
      v1::StepRecord record;
      record.set_step(step);
      record.set_images(step * 32);
      record.set_loss(2.0 / step);
      record.set_step_seconds(0.01);
      coordinator_.steps.push_back(record);
    }
    for (int n = 1; n <= 5; ++n) {
      v1::Event event;
      event.set_sequence(n);
      event.set_job_id("job1");
      event.set_kind("placed");
      event.set_message(absl::StrCat("event ", n));
      coordinator_.events.push_back(event);
      v1::LogLine line;
      line.set_sequence(n);
      line.set_rank(n % 2);
      line.set_text(absl::StrCat("line ", n));
      coordinator_.logs.push_back(line);
    }
    v1::EvalRecord eval;
    eval.set_name("val");
    eval.set_step(20);
    (*eval.mutable_values())["top1"] = 0.875;
    coordinator_.evals.push_back(eval);
  }

  v1::Job& AddJob(const std::string& id, const std::string& name, v1::JobState state) {
    v1::Job& job = coordinator_.jobs[id];
    job.set_id(id);
    job.mutable_spec()->set_name(name);
    job.set_state(state);
    job.set_step(20);
    job.set_total_steps(20);
    job.set_intent(v1::INTENT_RUN);
    return job;
  }

  int Run(std::vector<std::string> arguments, const std::string& input = "") {
    out_.str("");
    err_.str("");
    in_ = std::istringstream(input);
    Context context{.out = out_, .err = err_, .in = in_, .clock = clock_};
    return RunWith(context, std::move(arguments));
  }
  int RunWith(Context& context, std::vector<std::string> arguments) {
    context.out_is_terminal = terminal_;
    context.sleep = [this](absl::Duration d) {
      slept_.push_back(d);
      clock_.Advance(d);
    };
    context.environment = [this](const char* name) { return environment_[name]; };
    context.connect = [this](const std::string& address, absl::Duration) {
      address_ = address;
      return absl::StatusOr<std::unique_ptr<ControlClient>>(
          std::make_unique<FakeControlClient>(coordinator_));
    };
    return RunCli(arguments, context);
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }
  std::vector<std::string> Lines() const { return absl::StrSplit(out(), '\n', absl::SkipEmpty()); }

  FakeCoordinator coordinator_;
  FakeClock clock_;
  std::ostringstream out_, err_;
  std::istringstream in_;
  std::map<std::string, std::string> environment_;
  std::vector<absl::Duration> slept_;
  std::string address_;
  bool terminal_ = false;
};

}  // namespace vitscale

#endif  // TESTS_CLIENT_CLI_FIXTURE_H_
