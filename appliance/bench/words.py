"""Common words that prompts are made of; most are one token in the vocabularies of today."""

from __future__ import annotations

ENGLISH = tuple(
    """
    able above across action actor advice agent airport album amount animal answer apple area army
    article artist aspect autumn baby balance bank basis basket beach beauty bell bird block blood
    board boat body bone book border bottle bottom box branch bread bridge brother budget building
    butter cabin cable camera camp canal candle capital captain card career castle cause cell center
    century chain chair chance chapter cheese chest child choice church circle city class clock
    cloth cloud coast coffee color column comfort company concert contact copper corner cotton
    council country couple course court cousin cover cream crew crowd culture current curtain
    custom daughter debate degree desert design detail device dinner doctor dollar door dozen dream
    dress driver earth east edge effect effort election energy engine evening event evidence
    exchange exercise face factor factory family farm father field figure film finger finish fire
    fish floor flower forest form fortune frame friend front fruit future game garden gate gift
    glass goal gold grain grass ground group growth guard guest guide hall hand harbor health heart
    heat height history holiday home honor horse hospital hotel hour house idea image income
    industry iron island item jacket journey judge juice jury kitchen knife lady lake lamp land
    language law lawyer leader leaf leather lesson letter level library light limit line list
    lunch machine magazine manager map market master match matter meal measure meat medal member
    memory metal method middle milk mind mine minute mirror model moment money month moon morning
    mother motor mountain mouth museum music nation nature neck network night noise north nose
    note number object ocean office orange order owner page paint palace paper parent park part
    party path pattern peace pen people period person phone photo piano picture piece pilot pipe
    place plan planet plant plate player pocket poem point police pool port post power practice
    price prince print prison prize problem process product profit project protein quarter queen
    question race radio rain range rate reason record region result rice ring river road rock role
    roof room root rose route rule safety salt sand scale scene school science screen sea season
    seat second section seed series shadow shape ship shirt shoe shop shore silver sister skill
    skin sky sleep smile smoke snow soil soldier song sound source south space speaker spirit sport
    spring square stage stair star station steam steel step stock stone storm story stream street
    summer sun surface table tail talent task teacher team temple theory thread throat ticket time
    title tool tooth tower town trade train travel tree trial truth turn uncle union unit valley
    value vehicle victory village voice wall war watch water wave weather week weight west wheel
    wind window wine winter wire woman wood word world writer year youth zone
    """.split()
)

CHINESE = tuple(
    """
    时间 问题 工作 生活 学生 老师 学校 城市 国家 世界 历史 文化 经济 社会 科学
    技术 音乐 电影 朋友 家庭 孩子 父亲 母亲 医生 医院 公司 市场 产品 价格 服务
    信息 网络 电脑 手机 汽车 火车 飞机 道路 河流 山脉 大海 天空 太阳 月亮 星星
    春天 夏天 秋天 冬天 早上 晚上 今天 明天 昨天 动物 植物 花园 森林 草原 沙漠
    食物 水果 蔬菜 米饭 面包 牛奶 咖啡 茶叶 衣服 房子 窗户 桌子 椅子 书籍 报纸
    杂志 照片 图画 颜色 声音 语言 文字 故事 小说 诗歌 戏剧 歌曲 舞蹈 运动 足球
    篮球 游泳 跑步 比赛 冠军 健康 身体 眼睛 耳朵 心情 快乐 悲伤 希望 梦想 爱情
    友谊 信任 勇气 智慧 知识 经验 教育 研究 实验 理论 方法 系统 结构 过程 结果
    原因 条件 关系 影响 变化 发展 进步 成功 失败 机会 挑战 计划 目标 任务 责任
    权利 法律 政府 人民 军队 战争 和平 安全 环境 资源 能源 石油 电力 水平 质量
    数量 程度 范围 方向 位置 中心 地区 农村 工厂 农业 工业 商业 银行 货币 投资
    贸易 合作 竞争 管理 组织 领导 成员 代表 会议 报告 消息 新闻 广告 电视 节目
    演员 导演 作家 画家 记者 律师 警察 工人 农民 士兵 客人 邻居 旅行 宾馆 机场
    车站 码头 桥梁 公园 商店
    """.split()
)
