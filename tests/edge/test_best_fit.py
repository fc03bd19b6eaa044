"""The settings that are taken when nobody chooses any: what fits, what is given up first, and that it is quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.sparse_model import write_sparse_model
from edge.best_fit import BestFit, best_that_fits, find_best_fit
from edge.device_profiles import Device, MemoryPool, find_device
from edge.published_models import published_config
from edge.settings import AdapterSettings, ModelSettings
from tests.edge.published import GEMMA, LLAMA, candidates

GB = 1_000_000_000
RTX_3060 = find_device("rtx-3060-12gb")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse(tmp_path_factory, GEMMA)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse(tmp_path_factory, LLAMA)


def sparse(factory: pytest.TempPathFactory, name: str) -> Path:
    path = factory.mktemp("models") / "model.gguf"
    write_sparse_model(path, published_config(name) or {}, "Q4_K_M")
    return path


def device_of(gpu_gigabytes: float, ram_gigabytes: float) -> Device:
    gpu = MemoryPool(int(gpu_gigabytes * GB), int(gpu_gigabytes * GB), 360e9, 20e12)
    ram = MemoryPool(int(ram_gigabytes * GB), int(ram_gigabytes * GB), 40e9, 3e11)
    return Device("made", "made", ram, (gpu,) if gpu_gigabytes else ())


def test_demo_gets_all_that_it_was_trained_on(demo_gguf: Path) -> None:
    best = find_best_fit(demo_gguf, device_of(0, 8))
    assert best.settings.context_tokens == 8192 and best.shortfall is None
    assert best.line == "Using 8,192 tokens of context: about 378 MB of memory."
    assert best_that_fits(demo_gguf, device_of(0, 8)) == best.settings


def test_everything_is_left_as_it_is_where_it_fits(gemma: Path) -> None:
    best = find_best_fit(gemma, RTX_3060)
    assert best.settings.model_settings() == ModelSettings(context_tokens=8192)


def test_longer_context_is_taken_where_there_is_room_to_spare(llama: Path) -> None:
    assert find_best_fit(llama, device_of(0, 32)).settings.context_tokens == 32768
    assert find_best_fit(llama, device_of(0, 6)).settings.context_tokens == 8192


def test_cache_is_quantized_before_the_context_is_cut(gemma: Path) -> None:
    best = find_best_fit(gemma, find_device("raspberry-pi-5-8gb"))
    assert (best.settings.context_tokens, best.settings.key_type, best.settings.value_type) == (8192, "Q8_0", "Q8_0")
    assert best.line == (
        "Using 8,192 tokens of context, keys and values in Q8_0/Q8_0, weights not repacked: about 7.45 GB of memory."
    )


def test_weights_are_not_repacked_where_memory_holds_them_but_no_copy(llama: Path) -> None:
    wanted = ModelSettings(context_tokens=8192, prefill_tokens=512)
    ample = find_best_fit(llama, device_of(0, 32), wanted, given={"key_type", "prefill_tokens"}).fit
    assert ample is not None
    needed, copy = ample.prediction.ram.with_error, ample.prediction.mapped_copy_bytes
    assert copy > GB
    for free, is_repacked in ((needed + copy / 8 + 1e6, True), (needed + copy / 8 - 1e6, False)):
        best = find_best_fit(llama, device_of(0, free / GB))
        assert (best.settings.context_tokens, best.settings.key_type) == (8192, "F16")
        assert best.settings.repack_weights == best.has_repacked_weights == is_repacked
        assert ("weights not repacked" in best.line) == (not is_repacked)
        assert best.settings.model_settings().repack_weights == is_repacked


def test_whether_weights_are_repacked_is_chosen_only_where_nobody_says_so(llama: Path) -> None:
    small, large = device_of(0, 3.2), device_of(0, 32)
    assert not find_best_fit(llama, small).settings.repack_weights
    chosen = find_best_fit(llama, small, given={"repack_weights"})
    assert chosen.settings.repack_weights and chosen.has_repacked_weights and chosen.shortfall is None
    assert not find_best_fit(llama, large, ModelSettings(repack_weights=False)).settings.repack_weights


def test_weights_stay_repacked_for_a_draft_model_which_may_need_it(llama: Path, demo_gguf: Path) -> None:
    assert find_best_fit(llama, device_of(0, 4), ModelSettings(draft_model=demo_gguf)).settings.repack_weights


def test_model_that_may_not_fit_is_not_repacked_unless_a_person_says_so(llama: Path) -> None:
    assert not find_best_fit(llama, device_of(0, 1)).settings.repack_weights
    assert find_best_fit(llama, device_of(0, 1), given={"repack_weights"}).settings.repack_weights


def test_card_with_all_layers_leaves_nothing_to_repack(llama: Path) -> None:
    best = find_best_fit(llama, device_of(12, 1.5))
    assert best.settings.repack_weights and not best.has_repacked_weights


def test_context_is_cut_where_nothing_else_helps(gemma: Path) -> None:
    best = find_best_fit(gemma, device_of(0, 6.6))
    assert best.settings.context_tokens < 8192 and best.shortfall is None


def test_layers_stay_in_main_memory_rather_than_the_context_be_useless(gemma: Path) -> None:
    best = find_best_fit(gemma, device_of(5, 16))
    assert 0 < best.settings.gpu_layers < 43
    assert f", {best.settings.gpu_layers} of 43 layers on the graphics card" in best.line


def test_what_a_person_chose_stays(gemma: Path) -> None:
    base = ModelSettings(context_tokens=1234, key_type="Q4_0", value_type="Q4_0", threads=2, gpu_layers=0)
    settings = find_best_fit(gemma, RTX_3060, base).settings.model_settings(base)
    assert settings == base


def test_several_sequences_get_a_context_each(llama: Path) -> None:
    assert find_best_fit(llama, device_of(0, 8), ModelSettings(parallel=2)).settings.context_tokens == 2 * 8192


def test_file_that_does_not_fit_is_loaded_with_the_least_and_said_so(gemma: Path) -> None:
    best: BestFit = find_best_fit(gemma, device_of(0, 4))
    assert best.shortfall is not None and best.fit is None
    assert (best.settings.context_tokens, best.settings.prefill_tokens) == (512, 128)
    assert best.line.startswith("This model may not fit: it needs about 6.")
    assert best.line.endswith(" GB of main memory even with 512 tokens of context, where 4.00 GB are free.")


def test_of_several_quantizations_the_best_that_fits_is_taken() -> None:
    assert best_that_fits(candidates(GEMMA), RTX_3060).quantization == "Q8_0"
    asked = best_that_fits(candidates(GEMMA), RTX_3060, ModelSettings(context_tokens=2048))
    assert asked.context_tokens == 2048


def test_nothing_heavy_is_imported(demo_gguf: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edge.best_fit import find_best_fit; "
        "from edge.device_profiles import find_device; "
        "find_best_fit(Path(sys.argv[1]), find_device('laptop-16gb')); "
        "print({'numpy', 'llama_cpp', 'convert', 'huggingface_hub', 'gguf'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program, str(demo_gguf)], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_adapters_are_counted_by_the_size_of_their_files(gemma: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.gguf"
    with adapter.open("wb") as file:
        file.truncate(500_000_000)
    plain, adapted = (
        find_best_fit(gemma, RTX_3060, ModelSettings(adapters=adapters))
        for adapters in ((), (AdapterSettings(adapter),))
    )
    assert plain.fit is not None and adapted.fit is not None
    assert adapted.fit.prediction.gpus[0].adapters == 500_000_000
    assert adapted.fit.prediction.total == plain.fit.prediction.total + 500_000_000
