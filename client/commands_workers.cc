// workers: list, drain, release.

#include <utility>

#include "client/command.h"
#include "client/job_text.h"
#include "client/output.h"
#include "kernels/base/status.h"

namespace vitscale {
namespace {

absl::StatusOr<int> ListAllWorkers(Context& context, const NoFlags&) {
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  std::vector<v1::Worker> workers;
  v1::ListWorkersRequest request;
  do {
    VITSCALE_ASSIGN_OR_RETURN(const v1::ListWorkersResponse page, client->ListWorkers(request));
    workers.insert(workers.end(), page.workers().begin(), page.workers().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  PrintList(context, workers, [&] {
    return WorkerTable(workers, context.clock.Now(), context.format == OutputFormat::kWide,
                       context.color);
  });
  return kExitOk;
}

struct WorkerFlags {
  std::string worker;
  bool undo = false;
};

absl::StatusOr<int> Update(Context& context, v1::UpdateWorkerRequest request) {
  VITSCALE_RETURN_IF_ERROR(CheckFormat(
      context, request.has_drain() ? "workers drain" : "workers release", kTextOrRecord));
  VITSCALE_ASSIGN_OR_RETURN(const auto client, context.Connect());
  request.set_request_id(context.RequestId());
  VITSCALE_ASSIGN_OR_RETURN(const v1::Worker worker, client->UpdateWorker(request));
  if (JsonOrYaml(context)) {
    PrintMessage(context, worker);
  } else {
    context.out << worker.id() << "  " << Coloured(StateWord(worker.state()), context.color)
                << "\n";
  }
  return kExitOk;
}

}  // namespace

void AddWorkers(Cli& cli) {
  CLI::App* group = AddCommand<NoFlags>(
      cli, cli.app, "workers", "List workers; drain or release one.",
      "  vitscale workers\n  vitscale workers -o wide\n  vitscale workers drain box7-cpu0",
      [](CLI::App& app, NoFlags&) { app.require_subcommand(0, 1); }, ListAllWorkers);
  AddCommand<NoFlags>(
      cli, *group, "list", "List workers.", "  vitscale workers list -o json",
      [](CLI::App&, NoFlags&) {}, ListAllWorkers);
  AddCommand<WorkerFlags>(
      cli, *group, "drain", "Give a worker nothing new and let its job leave.",
      "  vitscale workers drain box7-cpu0\n  vitscale workers drain box7-cpu0 --undo",
      [](CLI::App& app, WorkerFlags& f) {
        app.add_option("worker", f.worker, "Its id")->required();
        app.add_flag("--undo", f.undo, "Back to work");
      },
      [](Context& context, const WorkerFlags& flags) {
        v1::UpdateWorkerRequest request;
        request.set_worker_id(flags.worker);
        request.set_drain(!flags.undo);
        return Update(context, request);
      });
  AddCommand<WorkerFlags>(
      cli, *group, "release", "Take a worker out of quarantine.",
      "  vitscale workers release box7-cpu0",
      [](CLI::App& app, WorkerFlags& f) {
        app.add_option("worker", f.worker, "Its id")->required();
      },
      [](Context& context, const WorkerFlags& flags) {
        v1::UpdateWorkerRequest request;
        request.set_worker_id(flags.worker);
        request.set_release(true);
        return Update(context, request);
      });
}

}  // namespace vitscale
