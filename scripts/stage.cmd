@echo off
rem As scripts/stage, on Windows.
cd /d "%~dp0.."
set python=.venv\Scripts\python.exe
if not exist %python% set python=python
set PYTHONPATH=%cd%\src;%PYTHONPATH%
%python% -m xtts_finetune.stages %*
