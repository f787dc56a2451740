#!/usr/bin/env python3
"""Times training steps of a ViT in PyTorch and prints one JSON object with the keys of `vitscale-bench step --json`.

    python peer.py --variant S/16 --batch 32 --precision bf16 --threads 2 --steps 10 --mode compile

A step is forward, sigmoid loss, backward and fused AdamW on one batch that lies in memory. --device cuda times the
same on a GPU. README.md says which environment is fair.
"""

import argparse
import json
import statistics
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="S/16", help="Ti/16, S/16, B/16, L/16, g/14, or small (28x28, patch 4)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16", help="bf16: autocast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before; the first compiles")
    parser.add_argument("--mode", choices=["eager", "compile", "max-autotune"], default="eager")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--count", action="store_true", help="only parameters and FLOPs, beside PyTorch's counter")
    return parser.parse_args()


def peak_rss_bytes():
    """Of this program alone: getrusage would count what the parent had before exec."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def make_step(torch, model, args, shape):
    from model import sigmoid_loss

    device = torch.device(args.device)
    generator = torch.Generator().manual_seed(0)
    size = (args.batch, shape.image_size, shape.image_size, shape.channels)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, shape.classes, (args.batch,), generator=generator)
    targets = torch.nn.functional.one_hot(labels, shape.classes).float().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    forward = model
    if args.mode != "eager":
        forward = torch.compile(model, mode=None if args.mode == "compile" else args.mode)

    def step():
        marks = [time.perf_counter()]
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = sigmoid_loss(forward(images), targets)
        for work in (loss.backward, optimizer.step):
            finish(torch, device)
            marks.append(time.perf_counter())
            work()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        finish(torch, device)
        marks.append(time.perf_counter())
        return marks, value

    return step


def finish(torch, device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(step, args):
    for _ in range(args.warm_up):
        step()
    all_marks = []
    for _ in range(args.steps):
        marks, loss = step()
        all_marks.append(marks)
    seconds = [marks[-1] - marks[0] for marks in all_marks]
    names = ["forward", "backward", "optimizer"]
    phases = {n: statistics.median(m[i + 1] - m[i] for m in all_marks) for i, n in enumerate(names)}
    return {
        "step_seconds": statistics.median(seconds),
        "step_seconds_min": min(seconds),
        "step_seconds_max": max(seconds),
        "phases": phases,
        "loss": loss,
    }


def main():
    args = arguments()
    import dataclasses

    import torch

    from model import SHAPES, Vit, counted_forward_flops

    if args.variant not in SHAPES:
        sys.exit(f"--variant: was {args.variant!r}, wanted one of {', '.join(SHAPES)}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape = dataclasses.replace(SHAPES[args.variant], classes=args.classes)
    model = Vit(shape).to(args.device)
    flops = shape.forward_flops()
    report = {
        "model": args.variant,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_gflop_per_image": 3 * flops / 1e9,
        "torch": torch.__version__,
    }
    if args.count:
        report["counted_train_gflop_per_image"] = 3 * counted_forward_flops(model, 2) / 1e9
        print(json.dumps(report))
        sys.exit(0 if report["counted_train_gflop_per_image"] == report["train_gflop_per_image"] else 1)
    report |= measure(make_step(torch, model, args, shape), args)
    report |= {
        "batch": args.batch,
        "precision": args.precision,
        "threads": torch.get_num_threads(),
        "mode": args.mode,
        "images_per_second": args.batch / report["step_seconds"],
        "flops_per_second": 3 * flops * args.batch / report["step_seconds"],
        "peak_rss_bytes": peak_rss_bytes(),
    }
    if args.device.startswith("cuda"):
        report["device"] = torch.cuda.get_device_name()
        report["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
