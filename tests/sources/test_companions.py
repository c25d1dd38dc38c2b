"""What lies beside the weights is copied by content: no weights, no modes, no circles."""

from pathlib import Path

from spikeconv.sources.companions import copy_companions

COPIED = {"tokenizer.json", "chat_template.jinja", "LICENSE", "code/model.py", "code/.keep", "linked.txt", "a/b/c.txt"}
LEFT = {
    *("config.json", "spikeconv.json", ".gitattributes", ".git/config"),
    *("model.safetensors", "pytorch_model.bin", "consolidated.00.pth", "model.gguf", "code/weights.safetensors"),
    *("model.safetensors.index.json", "pytorch_model.bin.index.json", "model.safetensors.index.fp16.json"),
}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_everything_else_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    for name in COPIED | LEFT:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if name != "linked.txt":
            (source / name).write_text(name)
    (source / "linked.txt").symlink_to("LICENSE")
    (source / "code/up").symlink_to("..")
    (source / "a/b/all").symlink_to(source)
    (source / "a").chmod(0o555)
    copy_companions(source, target)
    assert files(target) == COPIED
    assert (target / "linked.txt").read_text() == "LICENSE" and not (target / "linked.txt").is_symlink()
    assert (target / "a").stat().st_mode & 0o200  # may be removed again
    (source / "a").chmod(0o755)


def test_an_output_inside_does_not_hold_itself(tmp_path: Path) -> None:
    (tmp_path / "runs/out").mkdir(parents=True)
    (tmp_path / "tokenizer.json").write_text("{}")
    copy_companions(tmp_path, tmp_path / "runs/out")
    assert files(tmp_path) == {"tokenizer.json", "runs/out/tokenizer.json"}
