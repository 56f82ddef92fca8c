"""The dialog that asks for a new dataset: what is refused is told beside its field, and not read."""

import asyncio

from dashboards import until

from heimdall_lab.app.parts import new_dataset
from heimdall_lab.app.parts.new_dataset import NewDatasetDialog
from heimdall_lab.simulation import speed


def test_folders_outside_of_the_data_folder_are_not_read(tmp_path, monkeypatch):
    estimated = []
    monkeypatch.setattr(new_dataset, "_DEBOUNCE_S", 0.0)
    monkeypatch.setattr(speed, "estimate_generation_s", lambda config: estimated.append(config) or 60.0)
    root = tmp_path / "data"
    (root / "voices").mkdir(parents=True)

    async def steps():
        dialog = NewDatasetDialog(root, on_queued=lambda _job: None)
        await dialog.open()
        await until(lambda: estimated)
        field = dialog._fields.widgets["signal.voice_folder"]
        for folder in (tmp_path, "/etc", root / "voices" / ".." / ".."):
            field.value = str(folder)
            await until(lambda: field.error_state)
            assert "is outside of" in field.helper_text
        assert {config.signal.voice_folder for config in estimated} == {""}
        field.value = str(root / "voices")
        await until(lambda: estimated[-1].signal.voice_folder == field.value)
        assert not field.error_state

    asyncio.run(steps())
