"""What of the converter no import shows PyInstaller: its texts, and the module that its child process runs."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

datas = collect_data_files("convert")
hiddenimports = collect_submodules("convert")
